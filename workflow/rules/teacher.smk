rule train_teacher:
    """GRPO on the outcome alone, from the teacher's cold start."""
    input:
        manifest=RESULTS / "data/manifest.json",
        start=RESULTS / "models/teacher/cold/model.safetensors",
    output:
        weights=[RESULTS / "teacher/seed{seed}/model/model.safetensors"],
        metrics=[RESULTS / "teacher/seed{seed}/metrics.csv"],
        record=[RESULTS / "teacher/seed{seed}/model.run.json"],
    log:
        logs("train_teacher/seed{seed}"),
    priority: EARLY
    conda:
        "../envs/iapo.yaml"
    threads: CONFIG.hardware.processes
    resources:
        gpu=gpus(CONFIG.hardware.processes),
    params:
        settings=outcome_settings(CONFIG.teacher.train),
        method="vtool_r1",
        name="teacher",
        hint_rate=(
            None if CONFIG.data.hint_rate is None else CONFIG.teacher.train_hint_rate
        ),
        seeds=lambda wildcards: [int(wildcards.seed)],
        code=training_code("vtool_r1"),
    script:
        "../scripts/train_policy.py"


rule sample_student:
    """The cold-started student's own calls on the training prompts: which calls the cache will be asked for."""
    input:
        manifest=RESULTS / "data/manifest.json",
        student=STUDENT_START,
    output:
        calls=RESULTS / "teacher/student_calls.parquet",
        record=RESULTS / "teacher/student_calls.run.json",
    log:
        logs("sample_student"),
    priority: EARLY
    conda:
        "../envs/iapo.yaml"
    threads: 1
    resources:
        gpu=gpus(),
    params:
        settings=declare(
            CONFIG,
            "device",
            "teacher.student_calls",
            "train.prompts_per_set",
            "train.temperature",
            "evaluation.turn_tokens",
            "student.cold_start.seed",
        ),
        code=code("sample_student"),
    script:
        "../scripts/sample_student.py"


CACHING_SETTINGS = [
    "device",
    "teacher_attribution",
    "teacher.sampled_calls",
    "teacher.enumerated",
    "teacher.train_seed",
    "teacher.train.temperature",
    "train.prompts_per_set",
    "evaluation.turn_tokens",
]


rule cache_teacher:
    """Attribute every candidate call of every training prompt with the teacher, once."""
    input:
        manifest=RESULTS / "data/manifest.json",
        teacher=ancient(
            teacher_directory(CONFIG.teacher.train_seed) / "model.safetensors"
        ),
        record=RESULTS / f"teacher/seed{CONFIG.teacher.train_seed}/model.run.json",
        calls=RESULTS / "teacher/student_calls.parquet",
    output:
        stats=RESULTS / "teacher/cache/{cache}.stats.json",
        record=RESULTS / "teacher/cache/{cache}.run.json",
    log:
        logs("cache_teacher/{cache}"),
    priority: EARLY
    conda:
        "../envs/iapo.yaml"
    threads: 1
    resources:
        gpu=gpus(),
    params:
        settings=lambda wildcards: declare(CACHES[wildcards.cache], *CACHING_SETTINGS),
        # Undeclared on purpose: Snakemake wipes declared outputs when a job is killed.
        cache_dir=lambda wildcards: str(RESULTS / f"teacher/cache/{wildcards.cache}"),
        code=code("cache_teacher"),
    script:
        "../scripts/cache_teacher.py"


rule fill_cache:
    """Another cache, with the calls that trained students made and this one lacked, for the next round of training."""
    input:
        manifest=RESULTS / "data/manifest.json",
        stats=RESULTS / "teacher/cache/{cache}.stats.json",
        teacher=ancient(
            teacher_directory(CONFIG.teacher.train_seed) / "model.safetensors"
        ),
        weights=lambda wildcards: [
            RESULTS / f"train/{name}/seed{seed}/model/model.safetensors"
            for name, (method, resolved) in RESOLVED.items()
            if method.uses_teacher and cache_name(resolved) == wildcards.cache
            for seed in CONFIG.seeds
        ],
    output:
        stats=RESULTS / "teacher/cache/{cache}.filled.stats.json",
        record=RESULTS / "teacher/cache/{cache}.filled.run.json",
    log:
        logs("fill_cache/{cache}"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    resources:
        gpu=gpus(),
    params:
        settings=lambda wildcards: declare(CACHES[wildcards.cache], *CACHING_SETTINGS),
        code=code("fill_cache"),
    script:
        "../scripts/fill_cache.py"
