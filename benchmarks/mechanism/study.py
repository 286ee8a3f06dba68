"""The study on one page: its halves, each from a profile of its own, behind their answers.

``python -m benchmarks.mechanism.study results/sparse results/mechanism`` writes ``results/mechanism.md``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from iapo.artifacts.files import atomic_write

TITLE = "# When does an attribution penalty work?"

_IMAGE = re.compile(r"\]\((?P<path>[^):]+\.png)\)")


def whole_page(halves: Sequence[tuple[str, str]]) -> str:
    """Return the study's page: title, every half's answer, then the halves.

    Args:
        halves: for each, the path of its folder from the page's, and its Markdown: a heading, then a paragraph or list.
    """
    answers, bodies = [], []
    for folder, text in halves:
        heading, answer, body = text.split("\n\n", 2)
        answers.append(f"**{heading.removeprefix('## ')}**\n\n{answer}")
        bodies.append(f"{heading}\n\n" + _IMAGE.sub(rf"]({folder}/\g<path>)", body).rstrip("\n"))
    return "\n\n".join([TITLE, *answers, *bodies]) + "\n"


def main(profiles: Sequence[Path]) -> Path:
    """Write the page beside the profiles' folders, and return its path.

    Args:
        profiles: folders ``results/<profile>``, in one folder; those whose half has not been made are left out.

    Raises:
        FileNotFoundError: if no half has been made.
    """
    made = [profile for profile in profiles if (profile / "mechanism/page.md").exists()]
    if not made:
        raise FileNotFoundError(
            f"found no mechanism/page.md in {', '.join(map(str, profiles))}; make one: make sparse, make mechanism"
        )
    output = made[0].parent / "mechanism.md"
    halves = [(f"{profile.name}/mechanism", (profile / "mechanism/page.md").read_text()) for profile in made]
    with atomic_write(output) as tmp:
        tmp.write_text(whole_page(halves))
    return output


if __name__ == "__main__":
    try:
        print(main([Path(argument) for argument in sys.argv[1:]]))
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
