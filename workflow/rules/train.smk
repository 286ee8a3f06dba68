if CONFIG.student.first_stage:

    rule train_first_stage:
        """The student by GRPO on the outcome alone, once for all methods: the paper's first of two stages."""
        input:
            manifest=RESULTS / "data/manifest.json",
            start=[start_weights("cold", "{start}")],
        output:
            weights=[start_weights("first_stage", "{start}")],
            metrics=[RESULTS / "first_stage/start{start}/metrics.csv"],
            record=[RESULTS / "first_stage/start{start}/model.run.json"],
        log:
            logs("train_first_stage/start{start}"),
        conda:
            "../envs/iapo.yaml"
        threads: CONFIG.hardware.processes
        resources:
            gpu=gpus(CONFIG.hardware.processes),
            mem_mb=memory("first_stage"),
            runtime=minutes("first_stage"),
        params:
            settings=outcome_settings(CONFIG.student.first_stage),
            method="vtool_r1",
            name="first_stage",
            seeds=lambda wildcards: [int(wildcards.start)],
            code=training_code("vtool_r1"),
        script:
            "../scripts/train_policy.py"


rule tune_weight:
    """Short trials of one method from the student's cold start: which weight does best on the dev split?"""
    input:
        manifest=RESULTS / "data/manifest.json",
        start=STUDENT_START,
        cache=lambda wildcards: teacher_cache(wildcards.method),
        teacher=lambda wildcards: asked_teacher(wildcards.method),
    output:
        choice=RESULTS / "tuning/{method}.json",
        record=RESULTS / "tuning/{method}.run.json",
    log:
        logs("tuning/{method}"),
    priority: EARLY - 1
    conda:
        "../envs/iapo.yaml"
    threads: CONFIG.hardware.of_trials.processes
    resources:
        gpu=gpus(CONFIG.hardware.of_trials.processes),
        mem_mb=memory("tuning"),
        runtime=minutes("tuning"),
    params:
        settings=lambda wildcards: {
            **trial_settings(wildcards.method),
            **declare(
                CONFIG,
                "tuning",
                "evaluation.engine",
                "evaluation.batch_size",
                "evaluation.turn_tokens",
            ),
        },
        training=lambda wildcards: list(RESOLVED[wildcards.method][0].settings_read),
        weight=lambda wildcards: RESOLVED[wildcards.method][0].weight,
        method=lambda wildcards: method_of(wildcards.method),
        run_dir=lambda wildcards: str(RESULTS / f"tuning/work/{wildcards.method}"),
        replies=str(RESULTS / "verifier"),
        code=lambda wildcards: code("tune_weight", *method_code(wildcards.method)),
    script:
        "../scripts/tune_weight.py"


# One job a method and batch of seeds, from the student's cold start. Resumes from its last checkpoint.
for batch in CONFIG.seed_batches:

    rule:
        name:
            f"train_policy_{'_'.join(map(str, batch))}"
        input:
            manifest=RESULTS / "data/manifest.json",
            start=lambda wildcards, batch=batch: [
                trained_from(wildcards.method, seed) for seed in batch
            ],
            cache=lambda wildcards, batch=batch: teacher_cache(wildcards.method, batch),
            teacher=lambda wildcards, batch=batch: asked_teacher(
                wildcards.method, batch
            ),
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
        priority: 1  # before the evaluations, which are short
        conda:
            "../envs/iapo.yaml"
        threads: CONFIG.hardware.processes
        resources:
            gpu=gpus(CONFIG.hardware.processes),
            mem_mb=memory("policy"),
            runtime=minutes("policy"),
        params:
            settings=lambda wildcards: training_settings(wildcards.method),
            method=lambda wildcards: method_of(wildcards.method),
            name=lambda wildcards: wildcards.method,
            weight=lambda wildcards: RESOLVED[wildcards.method][0].weight,
            seeds=batch,
            # Copied results keep no list of inputs: which start and which teacher belong to which seed.
            starts=lambda wildcards, batch=batch: [
                (stage_of(wildcards.method), CONFIG.start_of[seed]) for seed in batch
            ],
            teachers=lambda wildcards, batch=batch: [
                CONFIG.teacher_of[seed]
                for seed in batch
                if reads_cache(wildcards.method) or asked_teacher(wildcards.method)
            ],
            replies=str(RESULTS / "verifier"),
            code=lambda wildcards: training_code(wildcards.method),
        script:
            "../scripts/train_policy.py"
