from iapo.config.variants import cells

CELLS = cells(CONFIG.grids)
# Name → conditions that one job measures: those of a start together, since each takes seconds and a process as many
# to begin; with hints each by itself.
MEASURED = {
    start: [
        f"untrained_{start}",
        *(cell.name for cell in CELLS if cell.start == start),
    ]
    for start in dict.fromkeys(cell.start for cell in CELLS)
} or {condition: [condition] for condition in ["cold", "teacher", *CONFIG.methods]}


for batch, conditions in MEASURED.items():
    policies = [policy for condition in conditions for policy in policies_of(condition)]

    rule:
        name:
            f"measure_condition_{batch}"
        input:
            manifest=RESULTS / "data/manifest.json",
            models=[weights for _, _, weights in policies],
        output:
            records=[
                RESULTS / f"mechanism/{condition}.parquet" for condition in conditions
            ],
            record=RESULTS / f"mechanism/{batch}.run.json",
        log:
            logs(f"mechanism/{batch}"),
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
                "device",
                "hardware.precision",
                "data.hint_rate",
                "test_sets",
                "evaluation.turn_tokens",
            ),
            conditions=conditions,
            policies=[(condition, seed) for condition, seed, _ in policies],
            code=code("measure_condition"),
        script:
            "../scripts/measure_condition.py"


RECORDS = [
    RESULTS / f"mechanism/{condition}.parquet"
    for conditions in MEASURED.values()
    for condition in conditions
]
METRICS = [
    RESULTS / f"train/{method}/seed{seed}/metrics.csv"
    for method, seed in CONFIG.trained_runs
]

if CELLS:

    rule sparsity_report:
        """What was found where right calls are rare: one half of the study."""
        input:
            records=RECORDS,
            metrics=METRICS,
            rates=measured_starts(*(cell.name for cell in CELLS)),
        output:
            page=RESULTS / "mechanism/page.md",
            plots=RESULTS / "mechanism/page.png",
            starts=RESULTS / "mechanism/starts.csv",
            cells=RESULTS / "mechanism/cells.csv",
            contrasts=RESULTS / "mechanism/contrasts.csv",
            summary=RESULTS / "mechanism/summary.json",
            record=RESULTS / "mechanism/page.run.json",
        log:
            logs("sparsity_report"),
        localrule: True
        conda:
            "../envs/iapo.yaml"
        params:
            settings=declare(
                CONFIG,
                "grids",
                "seeds",
                "statistics",
                "student.cold_starts",
                "train.scale_rewards",
                "train.temperature",
                "train.top_p",
            ),
            runs=CONFIG.trained_runs,
            code=code("sparsity_report"),
        script:
            "../scripts/sparsity_report.py"

else:

    rule mechanism_report:
        """What was found in the world with hints: the other half."""
        input:
            records=RECORDS,
            metrics=METRICS,
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
