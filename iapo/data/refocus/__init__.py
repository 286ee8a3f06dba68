"""The published ReFocus dataset, in both layouts of its releases.

Records that cannot be used are reported by id and never dropped silently.
"""

from iapo.data.refocus.reader import read_refocus

__all__ = ["read_refocus"]
