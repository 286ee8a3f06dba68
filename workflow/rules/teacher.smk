rule train_teacher:
    """GRPO on the outcome alone, from the teacher's cold start."""
    input:
        manifest=RESULTS / "data/manifest.json",
        start=RESULTS / "models/teacher/cold/model.safetensors",
    output:
        weights=RESULTS / "teacher/model/model.safetensors",
        metrics=RESULTS / "teacher/metrics.csv",
        record=RESULTS / "teacher/model.run.json",
    log:
        logs("train_teacher"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    params:
        settings=asdict(CONFIG.teacher.train),
        method="vtool_r1",
        of_teacher=True,
        seed=CONFIG.teacher.train_seed,
        work=str(RESULTS / "teacher/work"),
        code=TRAINING_CODE,
    script:
        "../scripts/train_policy.py"


rule cache_teacher:
    """Attribute every candidate call of every training prompt with the teacher, once."""
    input:
        manifest=RESULTS / "data/manifest.json",
        teacher=ancient(RESULTS / "teacher/model/model.safetensors"),
        record=RESULTS / "teacher/model.run.json",
    output:
        manifest=RESULTS / "teacher/cache/manifest.json",
        record=RESULTS / "teacher/cache.run.json",
    log:
        logs("cache_teacher"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    params:
        attribution=asdict(CONFIG.teacher.attribution),
        sampled_calls=CONFIG.teacher.sampled_calls,
        prompts_per_set=CONFIG.train.prompts_per_set,
        code=code_hash(
            "iapo.teacher",
            "iapo.teacher_cache",
            "iapo.attribution",
            "iapo.blocks",
            "iapo.rollout",
            "iapo.env",
            "iapo.tools",
            "iapo.prompts",
        ),
    script:
        "../scripts/cache_teacher.py"
