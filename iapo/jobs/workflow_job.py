"""The frame that every workflow script runs in: its log, its environment, its GPUs and the settings it may read."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from iapo.artifacts.run_record import Job, Plan
from iapo.config.declared import declared_config
from iapo.config.schema import load_config
from iapo.jobs.gpu_lock import claim_gpus
from iapo.jobs.preflight import check_job


@contextmanager
def job(snakemake: Any) -> Iterator[Job]:
    """Run a workflow script's body with its log, its GPUs, and the settings that its rule declares.

    Args:
        snakemake: the object that Snakemake hands to a script. Its ``params.settings`` are from
            :func:`iapo.config.declared.declare`; the script reads no other setting of the configuration.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    # Local files only, on nodes without internet too: without it `datasets` asks the hub even for files on disk. The
    # downloads have their own client.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    path = Path(snakemake.log[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", buffering=1) as log, _tee(log):
        # Only this project's own messages: libraries keep their levels.
        logging.basicConfig(stream=sys.stderr, format="%(message)s")
        logging.getLogger("iapo").setLevel(logging.INFO)
        if snakemake.config.get("device") == "cuda":
            # Before anything imports torch, which looks at its GPUs once.
            claim_gpus(snakemake.resources.get("gpu", 0))
        config = load_config(snakemake.config)
        check_job(config, snakemake.resources.get("gpu", 0))
        plan = Plan(
            rule=snakemake.rule,
            outputs=[str(path) for path in snakemake.output],
            params=sorted(repr(value) for _, value in snakemake.params.items()),
            settings=sorted(snakemake.params.get("settings", {})),
            threads=snakemake.threads,
            code=snakemake.params.get("code", ""),
        )
        yield Job(declared_config(snakemake.params.get("settings", {}), config), config, plan)


@contextmanager
def _tee(log: TextIO) -> Iterator[None]:
    """Copy what is printed to the log; an uncaught exception is printed by Python, so it is there too."""
    terminal = sys.stderr
    both = _Both(terminal, log)
    with contextlib.redirect_stdout(both), contextlib.redirect_stderr(both):
        try:
            yield
        except BaseException:
            import traceback

            traceback.print_exc(file=log)
            raise


class _Both:
    """A text stream that writes to two."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self._streams = (first, second)
        self.encoding = "utf-8"

    def write(self, text: str) -> int:
        for stream in self._streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self._streams:
            stream.flush()

    def isatty(self) -> bool:
        return False
