MECHANISM = ["cold", "teacher", *CONFIG.methods]


rule mechanism_run:
    """One condition of the mechanism study: all seeds trained, and what their policies do measured."""
    input:
        manifest=RESULTS / "data/manifest.json",
        start=lambda wildcards: (
            teacher_directory(CONFIG.teacher.train_seed)
            if wildcards.condition == "teacher"
            else STUDENT_START.parent
        )
        / "model.safetensors",
        cache=lambda wildcards: teacher_cache(wildcards.condition),
    output:
        records=RESULTS / "mechanism/{condition}.parquet",
        metrics=RESULTS / "mechanism/{condition}.metrics.csv",
        record=RESULTS / "mechanism/{condition}.run.json",
    log:
        logs("mechanism/{condition}"),
    conda:
        "../envs/iapo.yaml"
    threads: CONFIG.hardware.processes
    resources:
        gpu=gpus(CONFIG.hardware.processes),
    params:
        trained=lambda wildcards: wildcards.condition in SETTLED,
        settings=lambda wildcards: (
            training_settings(wildcards.condition)
            if wildcards.condition in SETTLED
            else None
        ),
        seeds=CONFIG.seeds,
        # Undeclared on purpose: Snakemake wipes declared outputs when a job is killed.
        work=lambda wildcards: str(RESULTS / f"mechanism/work/{wildcards.condition}"),
        code=lambda wildcards: (
            training_code(wildcards.condition)
            if wildcards.condition in SETTLED
            else None
        ),
        measure=code_hash(
            "benchmarks.mechanism.behaviour", "iapo.rollout", "iapo.teacher"
        ),
    script:
        "../scripts/mechanism_run.py"


rule mechanism_report:
    """What was found, on one page."""
    input:
        records=expand(
            str(RESULTS / "mechanism/{condition}.parquet"), condition=MECHANISM
        ),
        metrics=expand(
            str(RESULTS / "mechanism/{condition}.metrics.csv"),
            condition=CONFIG.methods,
        ),
    output:
        page=RESULTS / "mechanism/page.md",
        plots=RESULTS / "mechanism/page.png",
        conditions=RESULTS / "mechanism/conditions.csv",
        differences=RESULTS / "mechanism/differences.csv",
        summary=RESULTS / "mechanism/summary.json",
        record=RESULTS / "mechanism/page.run.json",
    log:
        logs("mechanism_report"),
    localrule: True
    conda:
        "../envs/iapo.yaml"
    params:
        statistics=asdict(CONFIG.statistics),
        code=code_hash(
            "benchmarks.figures",
            "benchmarks.mechanism.plots",
            "benchmarks.mechanism.report",
            "benchmarks.stats",
        ),
    script:
        "../scripts/mechanism_report.py"
