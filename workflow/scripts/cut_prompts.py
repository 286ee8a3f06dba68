"""Cut out one part of the training prompts, for one of the jobs that make the teacher's cache."""

from pathlib import Path
from typing import Any

from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    from iapo.data.selection import training_prompts
    from iapo.data.store import read_split, verify_manifest
    from iapo.rollout.call_sampling import read_sampled
    from iapo.teacher.parts import begin_from_joined, prompts_of_part, write_part

    train, params = run.config.train, snakemake.params
    manifest = Path(snakemake.input.manifest)
    examples = training_prompts(read_split(manifest.parent, "train", train.sets), train.prompts_per_set)
    prompts = prompts_of_part(examples, params.part, params.parts)
    calls = [call for path in snakemake.input.calls for call in read_sampled(Path(path))]
    settings = verify_manifest(manifest.parent)["settings"]
    write_part(Path(snakemake.output.manifest).parent, prompts, train.sets, calls, settings)
    begin_from_joined(Path(params.joined_dir), Path(params.cache_dir))
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest} | {f"student_calls {i}": Path(path) for i, path in enumerate(snakemake.input.calls)},
        seeds={},
        prompts=len(prompts),
    )
