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
            source=lambda wildcards: asdict(CONFIG.sources[wildcards.repo]),
            kind=lambda wildcards: kind_of(wildcards.repo),
            files=lambda wildcards: WANTED[kind_of(wildcards.repo)],
        script:
            "../scripts/download.py"
