"""The figures of an audit as Markdown, for ``docs/audit.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

from benchmarks.tables.render import number, percent

_STAGES = {
    "within_group_r": "cached against live penalty within groups, *r*",
    "within_group_r_exact": "the same over calls that the cache holds",
    "hit_rate_exact": "calls that the cache holds, %",
}
"""Figure of a stage of the summary → what it is called."""


def audit_page(summary: Mapping[str, Any], perf: Mapping[str, Any]) -> str:
    """Return three short parts: errors of the shares, the cache against the live teacher, and the cost.

    Args:
        summary: content of ``audit/summary.json``.
        perf: content of ``perf/summary.json``.
    """
    errors = [
        (name, found["calls"], number(found["mean"], 4), number(found["p95"], 4))
        for name, found in summary["tv"].items()
    ]
    stages = {name: found for name, found in summary["stages"].items() if name != "after filling"}
    cache = [
        (told, *((percent if key.startswith("hit_rate") else number)(found[key]) for found in stages.values()))
        for key, told in _STAGES.items()
    ]
    captum = ", ".join(
        f"{perf[key]:.1f} {where}"
        for key, where in {
            "captum_over_ours": "before training",
            "captum_over_ours_after_training": "after it",
            "captum_over_ours_500_tokens": "on prompts of 500 tokens",
        }.items()
    )
    return "\n\n".join(
        [
            _table(("attributed model", "calls", "mean error", "95 % of the calls are below"), errors),
            _table(("cache", *stages), cache),
            f"A step with attribution takes {perf['iapo_over_grpo_step']:.2f} plain ones. At equal error captum takes, "
            f"in units of this code's time, {captum}.",
        ]
    )


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    return tabulate(rows, headers=head, tablefmt="github", disable_numparse=True)
