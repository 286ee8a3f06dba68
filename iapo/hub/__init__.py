"""Downloads of models and data at a pinned commit, every file verified.

A folder that already holds them can stand in for the hub.
"""

from iapo.hub.download import fetch
from iapo.hub.files import HubError

__all__ = ["HubError", "fetch"]
