"""The frame that every workflow script runs in: its log, its environment, its GPUs and the settings it may read."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iapo.artifacts.run_record import Job, Plan
from iapo.config.declared import declared_config
from iapo.config.schema import load_config
from iapo.jobs.gpu_lock import claim_gpus
from iapo.jobs.job_log import error_text, show_own_messages
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
    with _printing_into(path):
        show_own_messages()
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
def _printing_into(path: Path) -> Iterator[None]:
    """Send to a file what this process prints, and whatever it starts; the run shows what matters of it.

    Raises:
        SystemExit: where the body failed; the file says why.
    """
    kept = [os.dup(number) for number in (1, 2)]
    # The file's own number too, not Python's streams alone: libraries and other processes print past these.
    with path.open("w", buffering=1) as log:
        try:
            for number in (1, 2):
                os.dup2(log.fileno(), number)
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                yield
        except KeyboardInterrupt:
            log.write("interrupted\n")
            raise SystemExit(130) from None
        except Exception as error:
            known = error_text(error)
            log.write(f"{known}\n" if known else traceback.format_exc())
            raise SystemExit(1) from error
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
