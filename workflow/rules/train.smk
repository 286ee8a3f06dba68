rule train_policy:
    """One method, one seed, from the student's cold start. Resumes from its last checkpoint."""
    input:
        manifest=RESULTS / "data/manifest.json",
        start=RESULTS / "models/student/cold/model.safetensors",
        cache=lambda wildcards: teacher_cache(wildcards.method),
        # Asked before the hours are spent; a new answer is no reason to train again.
        verdict=lambda wildcards: [
            ancient(str(path)) for path in teacher_verdict(wildcards.method)
        ],
    output:
        weights=RESULTS / "train/{method}/seed{seed}/model/model.safetensors",
        metrics=RESULTS / "train/{method}/seed{seed}/metrics.csv",
        record=RESULTS / "train/{method}/seed{seed}/model.run.json",
    log:
        logs("train/{method}/seed{seed}"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    params:
        settings=lambda wildcards: asdict(SETTLED[wildcards.method][1].train),
        method=lambda wildcards: wildcards.method,
        of_teacher=False,
        seed=lambda wildcards: int(wildcards.seed),
        alignment=lambda wildcards: (
            [
                asdict(getattr(SETTLED[wildcards.method][1], name))
                for name in ("alignment", "attribution")
            ]
            if teacher_cache(wildcards.method)
            else None
        ),
        # Undeclared on purpose: Snakemake wipes declared outputs when a job is killed.
        work=lambda wildcards: str(
            RESULTS / f"train/{wildcards.method}/seed{wildcards.seed}/work"
        ),
        code=TRAINING_CODE,
    script:
        "../scripts/train_policy.py"
