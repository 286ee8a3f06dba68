# What a repository is asked for: weights in one format only, and of the data what the ingest reads.
WANTED = {
    "model": ["*.json", "*.safetensors", "*.txt", "*.jinja"],
    "dataset": ["test_data_with_bounding_box*", "images/*", "train_raw_data/*chartqa*"],
}


def fetched(repo: str) -> Path:
    """The file that says that a repository is here, whole and verified."""
    return Path(CONFIG.hub.downloads) / repo / "fetched.json"


if CONFIG.sources:

    rule download:
        """One repository at its pinned commit, every file verified. Goes on where it was cut off."""
        output:
            marker=Path(CONFIG.hub.downloads) / "{repo}/fetched.json",
            record=Path(CONFIG.hub.downloads) / "{repo}/fetched.run.json",
        log:
            logs("download/{repo}"),
        wildcard_constraints:
            repo="|".join(CONFIG.sources),
        retries: 2
        localrule: True
        params:
            source=lambda wildcards: wildcards.repo,
            revision=lambda wildcards: asdict(CONFIG.sources[wildcards.repo]),
            kind=lambda wildcards: kind_of(wildcards.repo),
            files=lambda wildcards: WANTED[kind_of(wildcards.repo)],
        script:
            "../scripts/download.py"


def kind_of(repo: str) -> str:
    """Models and datasets have different addresses on the hub."""
    data = CONFIG.data.refocus
    return "dataset" if data and data.source.repo == repo else "model"
