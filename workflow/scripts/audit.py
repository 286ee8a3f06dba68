"""The cache against the live teacher, the attribution against a converged one, and the planted models."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from iapo.artifacts.files import write_json
from iapo.jobs.workflow_job import job

snakemake: Any

with job(snakemake) as run:
    import pandas as pd

    from benchmarks.audit.cache import audit_cache, compare, filled, self_teacher_penalty
    from benchmarks.audit.errors import autocast_variation, convergence_deltas, variation_from_converged
    from benchmarks.audit.planted import planted_share
    from benchmarks.audit.plots import draw
    from iapo.artifacts.files import directory_beside
    from iapo.data.selection import training_prompts
    from iapo.data.store import read_split
    from iapo.models.loading import load_to_run
    from iapo.rollout.call_sampling import read_misses, sample_calls
    from iapo.rollout.generation import Sampling
    from iapo.teacher.cache import TeacherCache
    from iapo.types import TEST_SETS

    config, audit = run.config, run.config.audit
    manifest, weights = Path(snakemake.input.manifest), Path(snakemake.input.teacher)
    prompts = training_prompts(read_split(manifest.parent, "train", TEST_SETS), audit.prompts_per_set)
    examples = {example.example_id: example for example in prompts}
    teacher = load_to_run(weights.parent, config)
    cached = directory_beside(Path(snakemake.input.stats[0]))
    cache = TeacherCache(cached)
    # The cache holds calls that the cold student was seen to make, so that it is asked with other ones.
    seed = config.student.cold_start.seed + 1
    audits, errors, found = {}, {}, {}
    for stage, path in {"before training": snakemake.input.cold, "after training": snakemake.input.trained}.items():
        student = load_to_run(Path(path).parent, config)
        calls = sample_calls(
            *student,
            prompts,
            rollouts=audit.rollouts,
            sampling=Sampling.of(config.train),
            turn_tokens=config.evaluation.turn_tokens,
            seed=seed,
        )
        audits[stage] = one = audit_cache(student, teacher, cache, examples, calls, config)
        errors[f"student, {stage}"] = variation_from_converged(
            student, one.student, config.attribution, audit.reference_steps
        )
        median, high = convergence_deltas(one.student.result)
        found[stage] = {**one.facts(), "convergence_delta_median": median, "convergence_delta_p95": high}
        found[stage]["self_teacher_penalty"] = self_teacher_penalty(student, examples, calls, config)
        found[stage]["tv_autocast"] = autocast_variation(student, one.student, config.attribution).mean().item()
        run.log.info(f"{stage}: {found[stage]}")
    # What raises the agreement: the same calls again, with the training runs' misses scored as rule fill_cache does.
    misses = read_misses(Path(path).parent / "work" for path in snakemake.input.metrics)
    fuller = filled(cached, teacher, prompts, misses, config)
    found["after filling"] = compare(one.student, one.teacher, fuller, calls, config, one.live_seconds).facts()
    run.log.info(f"after filling: {found['after filling']}")
    errors["teacher"] = variation_from_converged(
        teacher, one.teacher, config.teacher_attribution, audit.reference_steps
    )
    verdict = json.loads(Path(snakemake.input.verdict).read_text())
    main = verdict["teachers"][str(verdict["teacher_seed"])]
    summary = {
        **found["after training"],
        "within_group_r_filled": found["after filling"]["within_group_r"],
        "tv_mean": max(values.mean().item() for values in errors.values()),
        "tv_p95": max(pd.Series(values).quantile(0.95) for values in errors.values()),
        "informative": verdict["verdict"],
        "informative_auc": main["auc"],
        "planted_found": planted_share(snakemake.params.planted_cases, config=config.attribution),
        "stages": found,
        "tv": {
            name: {"mean": values.mean().item(), "p95": pd.Series(values).quantile(0.95), "calls": len(values)}
            for name, values in errors.items()
        },
        "settings": {"attribution": asdict(config.attribution), "alignment": asdict(config.alignment)},
    }
    write_json(Path(snakemake.output.summary), summary)
    metrics = pd.concat([pd.read_csv(path) for path in snakemake.input.metrics], ignore_index=True)
    draw(audits, errors, pd.read_csv(snakemake.input.options), metrics, Path(snakemake.output.page))
    run.log.info(json.dumps({name: value for name, value in summary.items() if not isinstance(value, dict)}))
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "teacher": weights, "trained": Path(snakemake.input.trained)},
        seeds={"rollouts": seed},
    )
