rule tune_weight:
    """Short trials of one method from the student's cold start: which weight does best on the dev split?"""
    input:
        manifest=RESULTS / "data/manifest.json",
        start=RESULTS / "models/student/cold/model.safetensors",
        cache=lambda wildcards: teacher_cache(wildcards.method),
        teacher=lambda wildcards: verifying_teacher(wildcards.method),
    output:
        choice=RESULTS / "tuning/{method}.json",
        record=RESULTS / "tuning/{method}.run.json",
    log:
        logs("tuning/{method}"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    params:
        tuning=asdict(CONFIG.tuning),
        settings=lambda wildcards: training_settings(wildcards.method),
        work=lambda wildcards: str(RESULTS / f"tuning/work/{wildcards.method}"),
        replies=str(RESULTS / "verifier"),
        code=lambda wildcards: training_code(wildcards.method),
    script:
        "../scripts/tune_weight.py"


# One job a method and batch of seeds, from the student's cold start. Resumes from its last checkpoint.
for batch in CONFIG.seed_batches:

    rule:
        name:
            f"train_policy_{'_'.join(map(str, batch))}"
        input:
            manifest=RESULTS / "data/manifest.json",
            start=RESULTS / "models/student/cold/model.safetensors",
            cache=lambda wildcards: teacher_cache(wildcards.method),
            teacher=lambda wildcards: verifying_teacher(wildcards.method),
            choice=lambda wildcards: choice(wildcards.method),
            # Asked before the hours are spent; a new answer is no reason to train again.
            verdict=lambda wildcards: [
                ancient(str(path)) for path in teacher_verdict(wildcards.method)
            ],
        output:
            weights=[
                RESULTS / f"train/{{method}}/seed{seed}/model/model.safetensors"
                for seed in batch
            ],
            metrics=[
                RESULTS / f"train/{{method}}/seed{seed}/metrics.csv" for seed in batch
            ],
            record=report(
                [
                    RESULTS / f"train/{{method}}/seed{seed}/model.run.json"
                    for seed in batch
                ],
                caption="../report/record.rst",
                category="Run records",
                labels={"method": "{method}"},
            ),
        log:
            logs(f"train/{{method}}/seed{'_'.join(map(str, batch))}"),
        conda:
            "../envs/iapo.yaml"
        threads: 1
        params:
            settings=lambda wildcards: training_settings(wildcards.method),
            method=lambda wildcards: wildcards.method,
            of_teacher=False,
            seeds=batch,
            replies=str(RESULTS / "verifier"),
            code=lambda wildcards: training_code(wildcards.method),
        script:
            "../scripts/train_policy.py"
