TEACHERS = {
    f"teacher{seed}": teacher_directory(seed) / "model.safetensors"
    for seed in CONFIG.asked_teachers
}
AUDIT_SETTINGS = [
    "device",
    "audit.prompts",
    "attribution",
    "alignment",
    "teacher.n_steps",
    "teacher.train_seed",
]
# Of the rules that ask the teachers of several seeds.
TEACHERS_SETTINGS = ["audit.teacher_seeds", "statistics.seed"]
SAMPLING_SETTINGS = [
    "train.temperature",
    "evaluation.turn_tokens",
    "student.cold_start.seed",
]


rule informative_teacher:
    """Before training: does the teacher's attribution tell the student's right calls from its wrong ones?"""
    input:
        **TEACHERS,
        manifest=RESULTS / "data/manifest.json",
        student=STUDENT_START,
        calls=RESULTS / "teacher/student_calls.parquet",
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
    params:
        settings=declare(CONFIG, *AUDIT_SETTINGS, *TEACHERS_SETTINGS),
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
    params:
        settings=declare(
            CONFIG,
            *AUDIT_SETTINGS,
            *TEACHERS_SETTINGS,
            *SAMPLING_SETTINGS,
            "audit.rollouts",
            "audit.reference_steps",
        ),
        code=code("compare_options"),
    script:
        "../scripts/compare_options.py"


AUDITED = next((name for name in CONFIG.methods if teacher_cache(name)), None)
if AUDITED is not None:
    TRAINED = RESULTS / f"train/{AUDITED}/seed{CONFIG.seeds[0]}/model/model.safetensors"

    rule audit:
        """Cache against live teacher, attribution against a converged one; numbers and a page of plots."""
        input:
            manifest=RESULTS / "data/manifest.json",
            teacher=teacher_directory(CONFIG.teacher.train_seed) / "model.safetensors",
            stats=teacher_cache(AUDITED),
            cold=STUDENT_START,
            trained=TRAINED,
            metrics=[
                RESULTS / f"train/{AUDITED}/seed{seed}/metrics.csv"
                for seed in CONFIG.seeds
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
        params:
            settings=declare(
                CONFIG,
                *AUDIT_SETTINGS,
                *SAMPLING_SETTINGS,
                "audit.rollouts",
                "audit.reference_steps",
                "teacher.sampled_calls",
                "teacher.enumerated",
                "teacher.train.temperature",
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
            cold=STUDENT_START,
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
