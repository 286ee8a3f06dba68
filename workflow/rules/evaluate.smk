# Of policies that no method trains, start by start; of the others, seed by seed: as many in a job.
OFF_THE_SHELF = [
    (name, tuple(batch))
    for name, starts in CONFIG.reference_starts.items()
    if name not in CONFIG.released
    for batch in CONFIG.batches(starts)
]
EVALUATED = [
    *(
        (
            f"off_the_shelf_{'_'.join(map(str, batch))}",
            "|".join(name for name, starts in OFF_THE_SHELF if starts == batch),
            batch,
        )
        for batch in dict.fromkeys(batch for _, batch in OFF_THE_SHELF)
    ),
    *(
        ("_".join(map(str, batch)), "|".join(RESOLVED), batch)
        for batch in CONFIG.seed_batches
    ),
]

for name, methods, batch in EVALUATED:

    rule:
        name:
            f"evaluate_policy_{name}"
        input:
            manifest=RESULTS / "data/manifest.json",
            # A model behind an API has no weights here.
            models=lambda wildcards, batch=batch: (
                []
                if wildcards.method == "api"
                else [policy_weights(wildcards.method, seed) for seed in batch]
            ),
        output:
            records=[
                RESULTS / f"eval/{{method}}/seed{seed}/records.parquet"
                for seed in batch
            ],
            record=[
                RESULTS / f"eval/{{method}}/seed{seed}/records.run.json"
                for seed in batch
            ],
        log:
            logs(f"evaluate/{{method}}/{name}"),
        wildcard_constraints:
            method=methods,
        conda:
            "../envs/iapo.yaml"
        threads: 1
        resources:
            gpu=gpus(),
            mem_mb=memory("evaluation"),
            runtime=minutes("evaluation"),
        params:
            settings=declare(
                CONFIG, "device", "hardware.precision", "evaluation", "test_sets"
            ),
            seeds=batch,
            code=code("evaluate_policy", "benchmarks/tasks"),
        script:
            "../scripts/evaluate_policy.py"


if CONFIG.released:

    rule evaluate_released:
        """Weights that others have published, as they were downloaded and under their own prompt."""
        input:
            manifest=RESULTS / "data/manifest.json",
            source=lambda wildcards: fetched(
                CONFIG.released[wildcards.method].model.source.repo
            ),
            prompt=lambda wildcards: prompt_file(
                CONFIG.released[wildcards.method].prompt.sha256
            ),
        output:
            records=RESULTS / "eval/{method}/seed0/records.parquet",
            record=RESULTS / "eval/{method}/seed0/records.run.json",
        log:
            logs("evaluate/{method}/released"),
        wildcard_constraints:
            method="|".join(CONFIG.released),
        conda:
            "../envs/iapo.yaml"
        threads: 1
        resources:
            gpu=gpus(),
            mem_mb=memory("evaluation"),
            runtime=minutes("evaluation"),
        params:
            settings=declare(
                CONFIG, "device", "hardware.precision", "evaluation", "test_sets"
            ),
            pixels=lambda wildcards: pixel_bounds(
                CONFIG.released[wildcards.method].model
            ),
            code=code("evaluate_released", "benchmarks/tasks"),
        script:
            "../scripts/evaluate_released.py"
