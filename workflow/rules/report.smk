TABLES = [
    "main",
    "contrasts",
    "differences",
    "calls",
    "image_help",
    "scorers",
    "dynamics",
    "cost",
    "tuning",
    "reported",
]
FIGURES = ["learning_curves", "dynamics", "forest", "block_shares", "image_help"]
# A table's flags come from the monitors, which change nothing in training.
TABLE_CODE = ["iapo.training.monitors"]
# What the rows of a table follow from.
ROW_SETTINGS = [
    "profile",
    "methods",
    "seeds",
    "test_sets",
    "evaluation.api_model",
    "student.first_stage",
    "student.cold_starts",
    "teacher.cold_starts",
    "teacher.trained",
    "variants",
    "grids",
    "released",
]
TABLE_SETTINGS = [
    *ROW_SETTINGS,
    "statistics",
    "monitors",
    "tuning",
    "evaluation.image_help",
]
VIEWER_ASSETS = [
    str(path)
    for kind in ("html", "css", "js")
    for path in sorted(Path("benchmarks/viewer").glob(f"*.{kind}"))
]


rule make_tables:
    """Every table and figure, from the records alone."""
    input:
        records=[
            RESULTS / f"eval/{method}/seed{seed}/records.parquet"
            for method, seed in CONFIG.evaluated_runs
        ],
        metrics=[
            RESULTS / f"train/{method}/seed{seed}/metrics.csv"
            for method, seed in CONFIG.trained_runs
        ],
        choices=sorted({path for method in CONFIG.methods for path in choice(method)}),
        informative=teacher_verdict(*CONFIG.methods),
        reported="benchmarks/reported.csv",
    output:
        [
            RESULTS / f"tables/{name}.{suffix}"
            for name in TABLES
            for suffix in ("csv", "md", "tex")
        ],
        page=report(
            RESULTS / "report.html",
            caption="../report/tables.rst",
            category="Results",
        ),
        figures=report(
            [RESULTS / f"figures/{name}.png" for name in FIGURES],
            caption="../report/figures.rst",
            category="Figures",
        ),
        record=report(
            RESULTS / "tables/main.run.json",
            caption="../report/record.rst",
            category="Run records",
        ),
    log:
        logs("make_tables"),
    localrule: True
    conda:
        "../envs/iapo.yaml"
    params:
        settings=declare(CONFIG, *TABLE_SETTINGS),
        code=code("make_tables", *TABLE_CODE),
    script:
        "../scripts/make_tables.py"


rule write_viewer:
    """One offline page with every question, and what each policy answered and called."""
    input:
        manifest=RESULTS / "data/manifest.json",
        records=[
            RESULTS / f"eval/{method}/seed{seed}/records.parquet"
            for method, seed in CONFIG.evaluated_runs
        ],
        assets=VIEWER_ASSETS,
    output:
        page=RESULTS / "view.html",
        record=RESULTS / "view.run.json",
    log:
        logs("write_viewer"),
    localrule: True
    conda:
        "../envs/iapo.yaml"
    params:
        settings=declare(CONFIG, *ROW_SETTINGS),
        code=code("write_viewer"),
    script:
        "../scripts/write_viewer.py"


rule write_training_viewer:
    """One offline page with the groups of rollouts that each training kept at its checkpoints."""
    input:
        # The rollouts lie undeclared in the runs' folders, and are there once their metrics are.
        metrics=[
            RESULTS / f"train/{method}/seed{seed}/metrics.csv"
            for method, seed in CONFIG.trained_runs
        ],
        assets=VIEWER_ASSETS,
    output:
        page=RESULTS / "view_training.html",
        record=RESULTS / "view_training.run.json",
    log:
        logs("write_training_viewer"),
    localrule: True
    conda:
        "../envs/iapo.yaml"
    params:
        settings=declare(CONFIG, "profile", "methods", "seeds", "grids"),
        code=code("write_training_viewer"),
    script:
        "../scripts/write_training_viewer.py"


# Policies that were trained here: row of the table, its place among the row's runs, folder.
TRAINED_ROWS = [
    row
    for row, trained in (
        ("first_stage", CONFIG.student.first_stage),
        ("teacher", CONFIG.teacher.trained),
    )
    if trained
]
TRAINED_POLICIES = [
    (row, place, policy_weights(row, run).parent)
    for row, runs in {
        **{row: CONFIG.reference_starts[row] for row in TRAINED_ROWS},
        **{method: CONFIG.seeds_of(method) for method in CONFIG.methods},
    }.items()
    for place, run in enumerate(runs)
]


rule write_cards:
    """A model card beside every policy that was trained, from its run record and the finished table."""
    input:
        table=RESULTS / "tables/main.csv",
        records=[folder.with_suffix(".run.json") for _, _, folder in TRAINED_POLICIES],
    output:
        cards=[folder / "README.md" for _, _, folder in TRAINED_POLICIES],
        record=RESULTS / "cards.run.json",
    log:
        logs("write_cards"),
    localrule: True
    conda:
        "../envs/iapo.yaml"
    params:
        settings=declare(CONFIG, "profile"),
        rows=[row for row, _, _ in TRAINED_POLICIES],
        places=[place for _, place, _ in TRAINED_POLICIES],
        summaries=[
            (
                RESOLVED[row][0].summary
                if row in RESOLVED
                else METHODS["vtool_r1"].summary
            )
            for row, _, _ in TRAINED_POLICIES
        ],
        code=code("write_cards"),
    script:
        "../scripts/write_cards.py"


rule show_table:
    """Copy the current configuration's table to the top of results/ and print it."""
    input:
        csv=RESULTS / "tables/main.csv",
        markdown=RESULTS / "tables/main.md",
    output:
        csv="results/table.csv",
        markdown="results/table.md",
    log:
        logs("show_table"),
    localrule: True
    conda:
        "../envs/iapo.yaml"
    shell:
        f"({shlex.quote(sys.executable)} -m iapo.jobs.recorded_inputs {{input}}"
        " && cp {input.csv} {output.csv} && cp {input.markdown} {output.markdown} && cat {output.markdown}) 2> {log}"


if CONFIG.ablated:

    rule make_ablations:
        """One setting of one method changed at a time."""
        input:
            records=[
                RESULTS / f"eval/{method}/seed{seed}/records.parquet"
                for method, seed in CONFIG.ablation_runs
            ],
        output:
            csv=RESULTS / "tables/ablations.csv",
            markdown=RESULTS / "tables/ablations.md",
            latex=RESULTS / "tables/ablations.tex",
            record=RESULTS / "tables/ablations.run.json",
        log:
            logs("make_ablations"),
        localrule: True
        conda:
            "../envs/iapo.yaml"
        params:
            settings=declare(CONFIG, *TABLE_SETTINGS, "ablations"),
            code=code("make_ablations", *TABLE_CODE),
        script:
            "../scripts/make_ablations.py"
