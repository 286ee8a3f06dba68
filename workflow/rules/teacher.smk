if CONFIG.teacher.trained:

    rule train_teacher:
        """GRPO on the outcome alone, from the teacher's cold start."""
        input:
            manifest=RESULTS / "data/manifest.json",
            start=[RESULTS / "models/teacher/cold/start{start}/model.safetensors"],
        output:
            weights=[teacher_weights("{start}", "{seed}")],
            metrics=[RESULTS / "teacher/start{start}/seed{seed}/metrics.csv"],
            record=[RESULTS / "teacher/start{start}/seed{seed}/model.run.json"],
        log:
            logs("train_teacher/start{start}/seed{seed}"),
        priority: EARLY
        conda:
            "../envs/iapo.yaml"
        threads: CONFIG.hardware.processes
        resources:
            gpu=gpus(CONFIG.hardware.processes),
            mem_mb=memory("teacher"),
            runtime=minutes("teacher"),
        params:
            settings=outcome_settings(CONFIG.teacher.train),
            method="vtool_r1",
            name="teacher",
            hint_rate=(
                None
                if CONFIG.data.hint_rate is None
                else CONFIG.teacher.train_hint_rate
            ),
            seeds=lambda wildcards: [int(wildcards.seed)],
            code=training_code("vtool_r1"),
        script:
            "../scripts/train_policy.py"


rule sample_student:
    """A start's own calls on the training prompts: which the cache will be asked for, and how often they are right."""
    input:
        manifest=RESULTS / "data/manifest.json",
        student=lambda wildcards: start_weights(wildcards.stage, wildcards.start),
    output:
        calls=student_calls("{stage}", "{start}"),
        rates=student_calls("{stage}", "{start}", "json"),
        record=student_calls("{stage}", "{start}", "run.json"),
    log:
        logs("sample_student/{stage}/start{start}"),
    priority: EARLY
    conda:
        "../envs/iapo.yaml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=memory("student_calls"),
        runtime=minutes("student_calls"),
    params:
        settings=declare(
            CONFIG,
            "device",
            "hardware.precision",
            "teacher.student_calls",
            "train.prompts_per_set",
            "train.sets",
            "train.temperature",
            "train.top_p",
            "evaluation.turn_tokens",
            "evaluation.engine",
            "student.cold_start.seed",
        ),
        code=code("sample_student"),
    script:
        "../scripts/sample_student.py"


CACHING_SETTINGS = [
    "device",
    "hardware.precision",
    "teacher_attribution",
    "teacher.sampled_calls",
    "teacher.enumerated",
    "teacher.train_seed",
    "teacher.train.temperature",
    "teacher.train.top_p",
    "train.prompts_per_set",
    "train.sets",
    "evaluation.turn_tokens",
    "evaluation.engine",
]


if CACHE_JOBS > 1:

    rule cut_prompts:
        """A part of the training prompts, and the students' calls on them."""
        input:
            manifest=RESULTS / "data/manifest.json",
            calls=lambda wildcards: cached_calls(wildcards.cache, int(wildcards.start)),
        output:
            manifest=CACHE_FOLDER / f"{CACHE_PART}_prompts/manifest.json",
            calls=CACHE_FOLDER / f"{CACHE_PART}_prompts/calls.parquet",
            record=CACHE_FOLDER / f"{CACHE_PART}_prompts.run.json",
        log:
            logs(f"cut_prompts/start{{start}}/{CACHE_PART}"),
        priority: EARLY
        localrule: True
        conda:
            "../envs/iapo.yaml"
        threads: 1
        params:
            settings=lambda wildcards: declare(
                CACHES[wildcards.cache], "train.prompts_per_set", "train.sets"
            ),
            part=lambda wildcards: int(wildcards.part),
            parts=CACHE_JOBS,
            cache_dir=lambda wildcards: str(part_path(wildcards, "")),
            joined_dir=lambda wildcards: str(
                RESULTS / f"teacher/start{wildcards.start}/cache/{wildcards.cache}"
            ),
            code=code("cut_prompts"),
        script:
            "../scripts/cut_prompts.py"

    rule join_cache:
        """One cache of those that several jobs made; which of them made a row does not matter."""
        input:
            parts=[
                CACHE_FOLDER / f"{{cache}}_part{part}of{CACHE_JOBS}.stats.json"
                for part in range(CACHE_JOBS)
            ],
        output:
            stats=CACHE_FOLDER / "{cache}.stats.json",
            record=CACHE_FOLDER / "{cache}.run.json",
        log:
            logs("join_cache/start{start}/{cache}"),
        priority: EARLY
        localrule: True
        conda:
            "../envs/iapo.yaml"
        threads: 1
        params:
            code=code("join_cache"),
        script:
            "../scripts/join_cache.py"


rule cache_teacher:
    """Attribute every candidate call of every training prompt with the teacher, once."""
    input:
        manifest=prompts_to_score,
        teacher=lambda wildcards: ancient(str(teacher_weights(wildcards.start))),
        record=lambda wildcards: teacher_weights(wildcards.start).parent.with_suffix(
            ".run.json"
        ),
        calls=calls_to_score,
    output:
        stats=CACHE_FOLDER / f"{CACHE_PART}.stats.json",
        record=CACHE_FOLDER / f"{CACHE_PART}.run.json",
    log:
        logs(f"cache_teacher/start{{start}}/{CACHE_PART}"),
    priority: EARLY
    conda:
        "../envs/iapo.yaml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=memory("cache"),
        runtime=minutes("cache"),
    params:
        settings=lambda wildcards: declare(CACHES[wildcards.cache], *CACHING_SETTINGS),
        # Undeclared on purpose: Snakemake wipes declared outputs when a job is killed.
        cache_dir=lambda wildcards: str(part_path(wildcards, "")),
        code=code("cache_teacher"),
    script:
        "../scripts/cache_teacher.py"


rule fill_cache:
    """Another cache, with the calls that trained students made and this one lacked, for the next round of training."""
    input:
        manifest=RESULTS / "data/manifest.json",
        stats=RESULTS / "teacher/start{start}/cache/{cache}.stats.json",
        teacher=lambda wildcards: ancient(str(teacher_weights(wildcards.start))),
        weights=lambda wildcards: [
            RESULTS / f"train/{name}/seed{seed}/model/model.safetensors"
            for name, (method, resolved) in RESOLVED.items()
            if method.uses_teacher and cache_name(resolved) == wildcards.cache
            for seed in CONFIG.seeds
            if CONFIG.teacher_of[seed] == int(wildcards.start)
        ],
    output:
        stats=RESULTS / "teacher/start{start}/cache/{cache}.filled.stats.json",
        record=RESULTS / "teacher/start{start}/cache/{cache}.filled.run.json",
    log:
        logs("fill_cache/start{start}/{cache}"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=memory("cache"),
        runtime=CACHE_JOBS * minutes("cache"),
    params:
        settings=lambda wildcards: declare(CACHES[wildcards.cache], *CACHING_SETTINGS),
        code=code("fill_cache"),
    script:
        "../scripts/fill_cache.py"
