TEACHERS = {
    f"teacher{seed}": teacher_weights(start, seed)
    for seed, start in CONFIG.asked_teachers.items()
}
AUDIT_SETTINGS = [
    "device",
    "hardware.precision",
    "audit.prompts",
    "attribution",
    "alignment",
    "teacher.n_steps",
]
SAMPLING_SETTINGS = [
    "train.temperature",
    "train.top_p",
    "evaluation.turn_tokens",
    "student.cold_start.seed",
]


rule informative_teacher:
    """Before training: does the teacher's attribution tell the student's right calls from its wrong ones?"""
    input:
        **TEACHERS,
        manifest=RESULTS / "data/manifest.json",
        student=STUDENT_START,
        calls=student_calls(STUDENT_STAGE, CONFIG.start_of[FIRST_SEED]),
    output:
        verdict=RESULTS / "informative.json",
        record=RESULTS / "informative.run.json",
    log:
        logs("informative_teacher"),
    priority: EARLY
    conda:
        "../envs/iapo.yaml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=memory("informative"),
        runtime=minutes("informative"),
    params:
        settings=declare(CONFIG, *AUDIT_SETTINGS, "statistics.seed"),
        # GRPO seed → number of the cold start, in place of the settings that they follow from: one more seed of the
        # methods asks nobody again.
        asked=CONFIG.asked_teachers,
        cached=list(CONFIG.cached_teachers),
        code=code("informative_teacher"),
    script:
        "../scripts/informative_teacher.py"


rule compare_options:
    """The same question under every option of attribution and alignment, on the dev split."""
    input:
        **TEACHERS,
        manifest=RESULTS / "data/manifest.json",
        student=STUDENT_START,
    output:
        table=RESULTS / "audit/options.csv",
        record=RESULTS / "audit/options.run.json",
    log:
        logs("compare_options"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=memory("informative"),
        runtime=minutes("informative"),
    params:
        settings=declare(
            CONFIG,
            *AUDIT_SETTINGS,
            "statistics.seed",
            "audit.teacher_seeds",
            "teacher.train_seed",
            "teacher.cold_starts",
            "teacher.trained",
            "seeds",
            *SAMPLING_SETTINGS,
            "audit.rollouts",
            "audit.reference_steps",
        ),
        code=code("compare_options"),
    script:
        "../scripts/compare_options.py"


AUDITED = next((name for name in CONFIG.methods if teacher_verdict(name)), None)
if AUDITED is not None:
    TRAINED = policy_weights(AUDITED, FIRST_SEED)

    rule audit:
        """Cache against live teacher, attribution against a converged one; numbers and a page of plots."""
        input:
            manifest=RESULTS / "data/manifest.json",
            teacher=teacher_weights(CONFIG.teacher_of[FIRST_SEED]),
            stats=teacher_cache(AUDITED),
            cold=trained_from(AUDITED, FIRST_SEED),
            trained=TRAINED,
            metrics=[
                RESULTS / f"train/{AUDITED}/seed{seed}/metrics.csv"
                for seed in CONFIG.seeds
                if CONFIG.teacher_of[seed] == CONFIG.teacher_of[FIRST_SEED]
            ],
            verdict=RESULTS / "informative.json",
            options=RESULTS / "audit/options.csv",
        output:
            summary=RESULTS / "audit/summary.json",
            page=RESULTS / "audit/page.png",
            record=RESULTS / "audit/summary.run.json",
        log:
            logs("audit"),
        conda:
            "../envs/iapo.yaml"
        threads: 1
        resources:
            gpu=gpus(),
            mem_mb=memory("informative"),
            runtime=minutes("informative"),
        params:
            settings=declare(
                CONFIG,
                *AUDIT_SETTINGS,
                *SAMPLING_SETTINGS,
                "audit.rollouts",
                "audit.reference_steps",
                "teacher.train_seed",
                "teacher.sampled_calls",
                "teacher.enumerated",
                "teacher.train.temperature",
                "teacher.train.top_p",
            ),
            planted_cases=50,
            code=code("audit"),
        script:
            "../scripts/audit.py"

    rule perf:
        """What a step costs with and without attribution, and attribution against captum."""
        input:
            manifest=RESULTS / "data/manifest.json",
            stats=teacher_cache(AUDITED),
            cold=trained_from(AUDITED, FIRST_SEED),
            trained=TRAINED,
        output:
            summary=RESULTS / "perf/summary.json",
            table=RESULTS / "perf/table.csv",
            record=RESULTS / "perf/summary.run.json",
        log:
            logs("perf"),
        conda:
            "../envs/iapo.yaml"
        threads: 1
        resources:
            gpu=gpus(),
            mem_mb=memory("informative"),
            runtime=minutes("informative"),
        params:
            settings=declare(
                RESOLVED[AUDITED][1],
                *RESOLVED[AUDITED][0].settings_read,
                "evaluation.turn_tokens",
            ),
            method=method_of(AUDITED),
            code=code("perf", *method_code(AUDITED)),
        script:
            "../scripts/perf.py"
