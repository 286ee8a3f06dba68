"""A new reward to start from: ``python -m baselines.new_reward NAME`` writes its file and its test.

The file is complete: the method can be named in `methods` at once, and what it pays is changed from there
(``docs/add_a_reward.md``).
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from baselines import METHODS
from iapo.artifacts.code_digest import ROOT
from iapo.artifacts.files import atomic_write
from iapo.config.conflicts import is_other_row


class NewRewardError(ValueError):
    """The file of a new reward cannot be written; the message says in one line why, and what to do."""


def new_reward(name: str, root: Path = ROOT) -> tuple[Path, Path]:
    """Write the file of a new method and its test.

    Args:
        name: of the method, as ``methods:`` will name it.
        root: folder of the project.

    Returns:
        Paths of the method's file and of its test.

    Raises:
        NewRewardError: for a name that cannot be one or is taken, and for a file that is there.
    """
    if not re.fullmatch("[a-z][a-z0-9_]{0,39}", name) or keyword.iskeyword(name):
        raise NewRewardError(
            f"found the name {name!r}; use small letters, digits and _, a letter first, and at most 40 of them"
        )
    if name in METHODS or is_other_row(name):
        raise NewRewardError(f"found the name {name!r}, which another row of the tables has; choose another")
    files = {root / f"baselines/{name}.py": METHOD_FILE, root / f"tests/baselines/test_{name}.py": TEST_FILE}
    for path in files:
        if path.exists():
            raise NewRewardError(f"found {path.relative_to(root)}, which is left as it is; choose another name")
    for path, text in files.items():
        with atomic_write(path) as tmp:
            tmp.write_text(text.replace("NAME", name).replace("TITLE", name.replace("_", " ").capitalize()))
    method, test = files
    return method, test


METHOD_FILE = '''"""TITLE: the outcome, plus a bonus for a call that names one label."""

from collections.abc import Mapping, Sequence
from typing import Any

from baselines.vtool_r1 import outcome
from iapo.config.method_registry import Method, RewardTerm
from iapo.tools.parsing import checked_call
from iapo.types import CallStatus


def one_label(
    completions: Sequence[Sequence[Mapping[str, Any]]], call_status: Sequence[CallStatus], **_: object
) -> list[float]:
    """Return 1 for each rollout whose call was executed and names one label, else 0."""
    return [
        float(status == "executed" and len(first_call_labels(messages)) == 1)
        for messages, status in zip(completions, call_status, strict=True)
    ]


def first_call_labels(messages: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Return the labels that an executed turn's first call names."""
    function = messages[0]["tool_calls"][0]["function"]
    return checked_call(function["name"], function["arguments"]).labels


METHOD = Method(
    name="NAME",
    summary="outcome plus 0.1 for a call with one label",
    rewards=lambda config: [*outcome(config), RewardTerm(one_label, weight=0.1)],
)
'''

TEST_FILE = '''"""TITLE: what it pays for, and that it is a method."""

from typing import Any

from baselines import METHODS
from baselines.NAME import METHOD, one_label
from iapo.config.schema import Config


def called(*labels: str) -> list[dict[str, Any]]:
    """Messages of a rollout whose call names these labels."""
    function = {"name": "focus_on_rows_with_mask", "arguments": {"rows_to_focus_on": list(labels)}}
    return [{"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}]


def test_one_label_is_paid_where_the_call_was_executed() -> None:
    completions = [called("a"), called("a", "b"), called("a"), [{"role": "assistant", "content": "FINAL ANSWER: 1"}]]
    assert one_label(completions, ["executed", "executed", "failed", "none"]) == [1.0, 0.0, 0.0, 0.0]


def test_the_bonus_comes_beside_the_outcome() -> None:
    assert METHODS["NAME"] is METHOD
    terms = METHOD.rewards(Config(profile="test"))
    assert [term.weight for term in terms] == [1.0, 0.1] and terms[1].function is one_label
'''


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files of a new reward and say what comes next; status 1 where they cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m baselines.new_reward", description=str(__doc__).splitlines()[0])
    parser.add_argument("name", help="of the method, as `methods` will name it")
    name = parser.parse_args(arguments).name
    try:
        method, test = new_reward(name)
    except NewRewardError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{method.relative_to(ROOT)}: what it pays for; change it\n{test.relative_to(ROOT)}: its test")
    print(f"before training: make try_reward METHOD={name}\nin a run: --config 'methods=[vtool_r1,{name}]'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
