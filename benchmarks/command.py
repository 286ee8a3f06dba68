"""The command ``iapo``: short names for the commands of docs/commands.md.

Each prints the whole command that it stands for and then runs it. What it does not know itself is passed on.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIG = Path("config")
PROFILES = Path("profiles")

Words = list[str]
"""A command line, word by word, as a user writes it; settings of the environment (``NAME=value``) in front."""


@dataclass(frozen=True)
class Settings:
    """Which run a subcommand is about."""

    profile: str
    """One of ``config/<profile>.yaml``."""
    files: Words
    """Config files that were named instead, laid over each other."""

    @property
    def of_snakemake(self) -> Words:
        """How Snakemake is told; ``mini`` is its own default."""
        folder = PROFILES / self.profile
        words = ["--workflow-profile", str(folder)] if folder.is_dir() else []
        files = self.files or ([] if words or self.profile == "mini" else self.of_profile)
        return [*words, "--configfile", *files] if files else words

    @property
    def of_profile(self) -> Words:
        """The config files themselves."""
        return self.files or [str(CONFIG / f"{self.profile}.yaml")]


def _table(settings: Settings, rest: Words) -> list[Words]:
    return [["snakemake", "table_and_pages", "--cores", "all", *settings.of_snakemake, *rest]]


def _plan(settings: Settings, rest: Words) -> list[Words]:
    needs = ["python", "-m", "baselines.estimate", "--configfile", *settings.of_profile]
    return [["snakemake", "table_and_pages", "-n", *settings.of_snakemake, *rest], needs]


def _status(settings: Settings, rest: Words) -> list[Words]:
    return [["python", "-m", "benchmarks.status", *settings.of_snakemake, *rest]]


def _eval(rest: Words) -> list[Words]:
    folder, *others = rest or [""]
    if not Path(folder, "config.json").is_file():
        sys.exit(
            f"error: found no saved policy in {folder!r}, expected a folder with its config.json: "
            "iapo eval results/mini/train/iapo/seed0/model"
        )
    tasks = [] if "--tasks" in others else ["--tasks", "iapo"]
    model = ["--model", "iapo", "--model_args", f"pretrained={folder}", "--include_path", "benchmarks/tasks"]
    return [["HF_HUB_OFFLINE=1", "lmms-eval", "eval", *model, *tasks, *others]]


def _module(name: str) -> Callable[[Words], list[Words]]:
    """Return what a subcommand stands for that is one module, to which everything is passed on."""
    return lambda rest: [["python", "-m", name, *rest]]


OF_A_RUN: Mapping[str, tuple[str, Callable[[Settings, Words], list[Words]]]] = {
    "table": ("results/table.csv, from nothing or from where it was stopped", _table),
    "plan": ("what that would run, and what the run needs; runs nothing", _plan),
    "status": ("what there is of the table, what is left to make, and who makes it", _status),
}
"""Subcommands that take ``--profile`` or ``--configfile``, and pass the rest on to Snakemake."""

OTHERS: Mapping[str, tuple[str, Callable[[Words], list[Words]]]] = {
    "view": ("a page of every answer: iapo view results/mini", _module("benchmarks.viewer")),
    "eval": ("accuracies of a saved policy: iapo eval DIR", _eval),
    "explain": ("the files and runs behind a table's cell", _module("benchmarks.explain_cell")),
    "new-reward": ("a reward of one's own and its test: iapo new-reward NAME", _module("baselines.new_reward")),
    "estimate": ("memory, time and disk of a run", _module("baselines.estimate")),
    "gpu-check": ("what one GPU can show in ten minutes", _module("benchmarks.gpu_check")),
}
"""Subcommands that pass on everything."""


def commands(arguments: Sequence[str] | None) -> list[Words]:
    """Return the commands that a command line of ``iapo`` stands for, to be run one after the other."""
    helps = {name: text for name, (text, _) in [*OF_A_RUN.items(), *OTHERS.items()]}
    parser = argparse.ArgumentParser(
        prog="iapo",
        description=__doc__,
        epilog="\n".join(f"  {name:<10} {text}" for name, text in helps.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=list(helps))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="options of the command")
    given = parser.parse_args(arguments)
    if given.command in OTHERS:
        return OTHERS[given.command][1](given.rest)
    text, stands_for = OF_A_RUN[given.command]
    return stands_for(*_settings(given.command, text, given.rest))


def _settings(name: str, text: str, arguments: Words) -> tuple[Settings, Words]:
    parser = argparse.ArgumentParser(
        prog=f"iapo {name}",
        description=f"{text}.",
        epilog="Everything else is passed on to Snakemake: --cores 4, --config seeds=[0].",
        allow_abbrev=False,
    )
    profiles = sorted(path.stem for path in CONFIG.glob("*.yaml"))
    parser.add_argument("--profile", default="mini", choices=profiles, help="a file of config/; mini when left out")
    parser.add_argument(
        "--configfile", nargs="+", default=[], metavar="FILE", help="laid over each other, in its place"
    )
    given, rest = parser.parse_known_args(arguments)
    return Settings(given.profile, given.configfile), rest


def start(words: Words, *, last: bool) -> None:
    """Print a command as a user would write it, and run it with the programs of this environment.

    Args:
        words: the command.
        last: whether this process becomes the command, which then hears an interrupt itself.

    Raises:
        SystemExit: where the program is not installed, or fails and is not the last.
    """
    print(f"+ {shlex.join(words)}", file=sys.stderr, flush=True)
    settings = dict(word.split("=", 1) for word in words[:1] if "=" in word)
    name, *arguments = words[len(settings) :]
    program = Path(sys.executable) if name == "python" else Path(sys.executable).with_name(name)
    if not program.exists():
        sys.exit(f"error: found no {program}, expected the clone's environment: `make table` makes it in .venv, and "
                 "`. .venv/bin/activate` opens it")  # fmt: skip
    if last:
        os.execve(program, [str(program), *arguments], os.environ | settings)
    if status := subprocess.run([program, *arguments], env=os.environ | settings).returncode:
        sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line stands for; each command only where the one before it succeeded."""
    *before, final = commands(arguments)
    for words in before:
        start(words, last=False)
    start(final, last=True)


if __name__ == "__main__":
    main()
