"""Time a step with and without attribution, attribution against captum and its growth, and the look-up."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from iapo.artifacts.files import atomic_write, write_json
from iapo.jobs.workflow_job import job

snakemake: Any
LONG_PROMPT = 500
"""Tokens."""
CAPTUM_STEPS = 3
"""Training steps whose rollouts captum is held against: those of one are too few to say what either errs by."""

with job(snakemake) as run:
    import pandas as pd

    from baselines import METHODS
    from benchmarks.perf.attributions import against_captum, lengthened, scaling
    from benchmarks.perf.steps import step_times, timed_settings
    from benchmarks.perf.timing import alternating
    from iapo.artifacts.files import directory_beside
    from iapo.config.declared import declared_config
    from iapo.data.selection import training_prompts
    from iapo.data.store import read_split
    from iapo.models.loading import load_model
    from iapo.rollout.call_sampling import sample_calls
    from iapo.rollout.generation import Sampling
    from iapo.rollout.turns import ToolTurn
    from iapo.teacher.cache import TeacherCache
    from iapo.teacher.online_scoring import turns_of
    from iapo.types import TEST_SETS

    method, config = METHODS[snakemake.params.method], run.config
    manifest, start = Path(snakemake.input.manifest), Path(snakemake.input.cold)
    cache_directory = directory_beside(Path(snakemake.input.stats[0]))
    examples = read_split(manifest.parent, "train", TEST_SETS)
    settings = timed_settings(asdict(config.train))
    timed = declared_config({**snakemake.params.settings, "train": settings}, config)
    steps = step_times(method, timed, examples, start=start.parent, cache=cache_directory)
    prompts, per_set = training_prompts(examples, config.train.prompts_per_set), config.train.prompts_per_set
    # Of every set the first, then of every set the second, and so on.
    mixed = [prompt for i in range(per_set) for prompt in prompts[i::per_set]]
    size = config.train.groups_per_step
    groups = [mixed[size * i : size * (i + 1)] for i in range(CAPTUM_STEPS)]

    def rolled_out(policy: Path) -> tuple[Any, Any, list[list[ToolTurn]]]:
        model, processor = load_model(policy, device=config.device)
        steps = []
        for group in groups:
            calls = sample_calls(
                model,
                processor,
                group,
                rollouts=config.train.group_size,
                sampling=Sampling.of(config.train),
                turn_tokens=config.evaluation.turn_tokens,
                seed=0,
            )
            steps.append(turns_of(processor, {example.example_id: example for example in group}, calls))
        steps = [turns for turns in steps if turns]
        if not steps:
            raise RuntimeError(f"{policy} made no call to time; train it longer (mini does)")
        return model, processor.tokenizer, steps

    # Late in training a group's rollouts repeat one another, and a call that was made twice is attributed once.
    trained = against_captum(*rolled_out(Path(snakemake.input.trained).parent), config.attribution, repeats=5)
    model, tokenizer, called = rolled_out(start.parent)
    captum = against_captum(model, tokenizer, called, config.attribution, repeats=5)
    # As long as real tool definitions make a prompt; mini's is one token.
    turns = called[0]
    long_captum = against_captum(model, tokenizer, [lengthened(turns, LONG_PROMPT)], config.attribution, repeats=3)
    rows = scaling(model, tokenizer, turns, config.attribution, repeats=5)
    cache = TeacherCache(cache_directory)
    keys = cache.prompts[: len(turns)]
    lookups = alternating({"lookup": lambda: [cache.lookup(key, turns[0].calls[0]) for key in keys]}, 20)["lookup"]
    per_step = lookups["median"] / max(1, len(keys)) * config.train.groups_per_step * config.train.group_size
    summary = {
        "iapo_over_grpo_step": steps["iapo_step"]["median"] / steps["grpo_step"]["median"],
        "attribution_over_grpo_step": steps["attribution"]["median"] / steps["grpo_step"]["median"],
        "captum_over_ours": captum["captum_over_ours"],
        "captum_over_ours_after_training": trained["captum_over_ours"],
        f"captum_over_ours_{LONG_PROMPT}_tokens": long_captum["captum_over_ours"],
        "cache_lookup_share": per_step / steps["iapo_step"]["median"],
        "length_exponent": next(row["exponent"] for row in rows if row["varied"] == "prompt tokens"),
        "steps": steps,
        "captum": captum,
        "captum_after_training": trained,
        "captum_long": long_captum,
    }
    write_json(Path(snakemake.output.summary), summary)
    parts = [{"varied": "step", "value": name, **times} for name, times in steps.items()]
    with atomic_write(Path(snakemake.output.table)) as tmp:
        pd.DataFrame([*parts, *rows]).to_csv(tmp, index=False, float_format="%.5f")
    run.log.info(str({name: value for name, value in summary.items() if not isinstance(value, dict)}))
    run.write_record(
        Path(snakemake.output.record),
        inputs={"data": manifest, "student": start},
        seeds={"rollouts": 0},
    )
