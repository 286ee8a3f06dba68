rule cold_start:
    """A pretrained model made ready, or a tiny one trained from random weights to an imperfect user of the tools."""
    input:
        manifest=RESULTS / "data/manifest.json",
        source=lambda wildcards: pretrained_source(wildcards.policy),
    output:
        weights=RESULTS / "models/{policy}/cold/model.safetensors",
        record=RESULTS / "models/{policy}/cold.run.json",
    log:
        logs("cold_start/{policy}"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    params:
        settings=lambda wildcards: declare(
            CONFIG,
            f"{wildcards.policy}.model",
            f"{wildcards.policy}.cold_start",
            "data.hint_rate",
        ),
        code=code("cold_start"),
    script:
        "../scripts/cold_start.py"
