"""The teacher's attributions: computed once, stored by prompt and call, and looked up during training.

The cache replaces running the teacher beside the student.
"""

from iapo.teacher.cache import CacheHit, TeacherCache
from iapo.teacher.rows import CacheError, CacheRow

__all__ = ["CacheError", "CacheHit", "CacheRow", "TeacherCache"]
