MECHANISM = ["cold", "teacher", *CONFIG.methods]


rule measure_condition:
    """What the policies of one condition of the mechanism study do."""
    input:
        manifest=RESULTS / "data/manifest.json",
        models=lambda wildcards: condition_models(wildcards.condition),
    output:
        records=RESULTS / "mechanism/{condition}.parquet",
        record=RESULTS / "mechanism/{condition}.run.json",
    log:
        logs("mechanism/{condition}"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    resources:
        gpu=gpus(),
    params:
        settings=declare(CONFIG, "device", "evaluation.turn_tokens"),
        seeds=lambda wildcards: condition_seeds(wildcards.condition),
        code=code("measure_condition"),
    script:
        "../scripts/measure_condition.py"


rule mechanism_report:
    """What was found, on one page."""
    input:
        records=expand(
            str(RESULTS / "mechanism/{condition}.parquet"), condition=MECHANISM
        ),
        metrics=[
            RESULTS / f"train/{method}/seed{seed}/metrics.csv"
            for method, seed in CONFIG.trained_runs
        ],
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
        settings=declare(
            CONFIG, "profile", "methods", "seeds", "variants", "statistics"
        ),
        runs=CONFIG.trained_runs,
        code=code("mechanism_report"),
    script:
        "../scripts/mechanism_report.py"
