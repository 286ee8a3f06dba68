"""The mini world: a synthetic dataset of charts, tables and panels drawn from gapminder, small enough for a CPU.

Its raw records have ReFocus's format, so that one ingestion path reads both sources.
"""

from iapo.data.mini_world.world import write_raw

__all__ = ["write_raw"]
