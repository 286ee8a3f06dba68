"""The supervised cold start: it turns random weights into a policy that uses the tools, imperfectly.

The demonstrations are faulty on purpose, so that reinforcement learning has room to improve.
"""

from iapo.cold_start.stages import cold_start, teach_habit

__all__ = ["cold_start", "teach_habit"]
