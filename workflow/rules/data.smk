rule build_data:
    """Draw the figures of every split from the tables, or take ReFocus's, and ingest them."""
    input:
        [fetched(CONFIG.data.refocus.source.repo)] if CONFIG.data.refocus else [],
    output:
        expand(
            str(RESULTS / "data/{split}/{test_set}.parquet"),
            split=["train", "dev", "test"],
            test_set=TEST_SETS,
        ),
        manifest=RESULTS / "data/manifest.json",
        record=RESULTS / "data/manifest.run.json",
    log:
        logs("build_data"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    params:
        settings=declare(CONFIG, "data"),
        code=code("build_data"),
    script:
        "../scripts/build_data.py"
