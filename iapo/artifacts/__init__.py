"""How files reach the disk whole, and the record that says what made each of them.

Every artefact is written under a temporary name and renamed, and carries the digest of its code and settings.
"""

from iapo.artifacts.files import atomic_directory, atomic_write, exclusive, sha256_file, write_json
from iapo.artifacts.progress import Progress

__all__ = ["Progress", "atomic_directory", "atomic_write", "exclusive", "sha256_file", "write_json"]
