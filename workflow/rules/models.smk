rule cold_start:
    """A pretrained model made ready, or a tiny one trained from random weights to an imperfect user of the tools."""
    input:
        manifest=RESULTS / "data/manifest.json",
        source=lambda wildcards: pretrained_source(wildcards.policy),
    output:
        weights=RESULTS / "models/{policy}/cold/start{start}/model.safetensors",
        record=RESULTS / "models/{policy}/cold/start{start}.run.json",
    log:
        logs("cold_start/{policy}/start{start}"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    resources:
        mem_mb=memory("copy"),
        runtime=minutes("copy"),
    params:
        settings=lambda wildcards: declare(
            CONFIG,
            f"{wildcards.policy}.model",
            f"{wildcards.policy}.cold_start",
            "data.hint_rate",
            "data.value_unit",
        ),
        code=code("cold_start"),
    script:
        "../scripts/cold_start.py"


if CONFIG.student.habits:

    rule teach_habit:
        """A cold start taught one habit more, which makes right calls as rare as a study of sparse outcomes wants."""
        input:
            manifest=RESULTS / "data/manifest.json",
            start=start_weights("cold", "{start}"),
        output:
            weights=start_weights("{habit}", "{start}"),
            record=RESULTS / "models/student/{habit}/start{start}.run.json",
        log:
            logs("teach_habit/{habit}/start{start}"),
        priority: EARLY
        conda:
            "../envs/iapo.yaml"
        threads: 1
        params:
            settings=declare(CONFIG, "student.cold_start.batch_size"),
            habit=lambda wildcards: asdict(CONFIG.student.habits[wildcards.habit]),
            code=code("teach_habit"),
        script:
            "../scripts/teach_habit.py"
