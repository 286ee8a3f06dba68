TEACHERS = {
    f"teacher{seed}": teacher_directory(seed) / "model.safetensors"
    for seed in sorted({CONFIG.teacher.train_seed, *CONFIG.audit.teacher_seeds})
}
AUDIT_CODE = code_hash(
    "benchmarks.audit",
    "iapo.alignment",
    "iapo.attribution",
    "iapo.block_sums",
    "iapo.blocks",
    "iapo.embedding_path",
    "iapo.informative",
    "iapo.live",
    "iapo.probe",
    "iapo.shared_prefix",
    "iapo.teacher_cache",
)


rule informative_teacher:
    """Before training: does the teacher's attribution tell the student's right calls from its wrong ones?"""
    input:
        **TEACHERS,
        manifest=RESULTS / "data/manifest.json",
        student=RESULTS / "models/student/cold/model.safetensors",
        calls=RESULTS / "teacher/student_calls.parquet",
    output:
        verdict=RESULTS / "informative.json",
        record=RESULTS / "informative.run.json",
    log:
        logs("informative_teacher"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    params:
        audit=asdict(CONFIG.audit),
        settings=[asdict(CONFIG.teacher_attribution), asdict(CONFIG.alignment)],
        code=AUDIT_CODE,
    script:
        "../scripts/informative_teacher.py"


rule compare_options:
    """The same question under every option of attribution and alignment, on the dev split."""
    input:
        **TEACHERS,
        manifest=RESULTS / "data/manifest.json",
        student=RESULTS / "models/student/cold/model.safetensors",
    output:
        table=RESULTS / "audit/options.csv",
        record=RESULTS / "audit/options.run.json",
    log:
        logs("compare_options"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    params:
        audit=asdict(CONFIG.audit),
        settings=[asdict(CONFIG.teacher_attribution), asdict(CONFIG.alignment)],
        code=AUDIT_CODE,
    script:
        "../scripts/compare_options.py"
