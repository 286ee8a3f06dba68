rule evaluate_policy:
    """Greedy answers of one policy to every test question, scored by lmms-eval."""
    input:
        manifest=RESULTS / "data/manifest.json",
        model=lambda wildcards: policy_directory(wildcards.method, wildcards.seed)
        / "model.safetensors",
    output:
        records=RESULTS / "eval/{method}/seed{seed}/records.parquet",
        record=RESULTS / "eval/{method}/seed{seed}/records.run.json",
    log:
        logs("evaluate/{method}/seed{seed}"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    params:
        settings=asdict(CONFIG.evaluation),
        test_sets=CONFIG.test_sets,
        code=code_hash(
            "benchmarks.agent",
            "benchmarks.evaluate",
            "benchmarks.records",
            "benchmarks.tasks",
            "iapo.answers",
            "iapo.env",
            "iapo.prompts",
            "iapo.rollout",
            "iapo.tools",
        ),
    script:
        "../scripts/evaluate_policy.py"
