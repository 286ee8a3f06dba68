rule cold_start:
    """Train a tiny model from random weights to an imperfect user of the tools."""
    input:
        manifest=RESULTS / "data/manifest.json",
    output:
        weights=RESULTS / "models/{policy}/cold/model.safetensors",
        record=RESULTS / "models/{policy}/cold.run.json",
    log:
        logs("cold_start/{policy}"),
    conda:
        "../envs/iapo.yaml"
    threads: 1
    params:
        settings=lambda wildcards: {
            "model": asdict(getattr(CONFIG, wildcards.policy).model),
            "cold_start": asdict(getattr(CONFIG, wildcards.policy).cold_start),
        },
        code=code_hash(
            "iapo.cold_start",
            "iapo.demonstrations",
            "iapo.models",
            "iapo.processor",
            "iapo.env",
            "iapo.tools",
            "iapo.prompts",
            "iapo.data",
        ),
    script:
        "../scripts/cold_start.py"
