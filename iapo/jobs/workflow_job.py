"""The frame that every workflow script runs in: its log, its environment, its GPUs and the settings it may read."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from iapo.artifacts.run_record import Job, Plan
from iapo.config.declared import declared_config
from iapo.config.schema import load_config
from iapo.jobs.ending import end_when_asked, interrupted_line
from iapo.jobs.gpu_lock import claim_gpus
from iapo.jobs.job_log import error_text, show_own_messages
from iapo.jobs.preflight import check_job
from iapo.jobs.recorded_inputs import check_inputs


@contextmanager
def job(snakemake: Any) -> Iterator[Job]:
    """Run a workflow script's body with its log, its GPUs, and the settings that its rule declares.

    What it reads is checked first against the run records of what made it.

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
    with _printing_into(path):
        end_when_asked()
        show_own_messages()
        if snakemake.config.get("device") == "cuda":
            # Before anything imports torch, which looks at its GPUs once.
            claim_gpus(snakemake.resources.get("gpu", 0))
        config = load_config(snakemake.config)
        check_job(config, snakemake.resources.get("gpu", 0))
        check_inputs(map(Path, snakemake.input))
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
def _printing_into(path: Path) -> Iterator[None]:
    """Send to a file what this process prints, and whatever it starts; the run shows what matters of it.

    Raises:
        SystemExit: where the body failed; the file says why.
    """
    log = _opened(path)
    kept = [os.dup(number) for number in (1, 2)]
    # The file's own number too, not Python's streams alone: libraries and other processes print past these.
    try:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            yield
    except KeyboardInterrupt as interrupt:
        _say(interrupted_line(interrupt), log, kept[1])
        raise SystemExit(130) from None
    except Exception as error:
        _say(error_text(error) or traceback.format_exc().rstrip(), log, kept[1])
        raise SystemExit(1) from error
    finally:
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
        # What a full disk did not take was said to the run.
        with contextlib.suppress(OSError):
            log.close()


def _opened(path: Path) -> IO[str]:
    """The log, line by line.

    Raises:
        SystemExit: where the disk takes none; Python prints why to the run.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", buffering=1)
    except OSError as error:
        raise SystemExit(error_text(error) or f"error: {error}") from None


def _say(why: str, log: IO[str], run: int) -> None:
    """Write why the job ends into its log or, where the disk takes no more, to the run's own output."""
    try:
        log.write(f"{why}\n")
        log.flush()
    except OSError:
        os.write(run, f"{why}\n".encode())
