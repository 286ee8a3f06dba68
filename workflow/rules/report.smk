rule make_table:
    """One row per method and test set, with intervals and paired differences."""
    input:
        records=[
            RESULTS / f"eval/{method}/seed{seed}/records.parquet"
            for method, seed in evaluated_runs()
        ],
        informative=teacher_verdict(*CONFIG.methods),
    output:
        csv=RESULTS / "tables/main.csv",
        markdown=RESULTS / "tables/main.md",
        record=RESULTS / "tables/main.run.json",
    log:
        logs("make_table"),
    localrule: True
    conda:
        "../envs/iapo.yaml"
    params:
        statistics=asdict(CONFIG.statistics),
        code=code_hash("benchmarks.records", "benchmarks.stats", "benchmarks.tables"),
    script:
        "../scripts/make_table.py"


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
        "(cp {input.csv} {output.csv} && cp {input.markdown} {output.markdown} && cat {output.markdown}) 2> {log}"
