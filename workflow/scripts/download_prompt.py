"""Download the prompt that released weights were trained with, and verify it."""

from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from benchmarks.released_prompt import fetch_prompt
    from iapo.config.sources import PromptConfig

    prompt = Path(snakemake.output.prompt)
    fetch_prompt(PromptConfig(snakemake.params.address, snakemake.wildcards.sha256), prompt)
    run.write_record(Path(snakemake.output.record), inputs={"prompt": prompt}, seeds={})
