# Policies that no method trains count as seed 0; the others are evaluated seed batch by seed batch.
EVALUATED = [
    ("off_the_shelf", "|".join(CONFIG.reference_policies), [0]),
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
                else [
                    policy_directory(wildcards.method, seed) / "model.safetensors"
                    for seed in batch
                ]
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
        params:
            settings=declare(CONFIG, "device", "evaluation", "test_sets"),
            seeds=batch,
            code=code("evaluate_policy", "benchmarks/tasks"),
        script:
            "../scripts/evaluate_policy.py"
