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


if CONFIG.released:

    # Text → where it is.
    PROMPTS = {
        each.prompt.sha256: each.prompt.address for each in CONFIG.released.values()
    }

    rule download_prompt:
        """What released weights were trained to answer to, by its digest."""
        output:
            prompt=prompt_file("{sha256}"),
            record=prompt_file("{sha256}").with_suffix(".run.json"),
        log:
            logs("download/prompts/{sha256}"),
        wildcard_constraints:
            sha256="|".join(PROMPTS),
        retries: 2
        localrule: True
        params:
            address=lambda wildcards: PROMPTS[wildcards.sha256],
        script:
            "../scripts/download_prompt.py"
