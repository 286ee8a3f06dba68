"""Input attribution-aware policy optimization (IAPO), with the teacher's attribution cached offline.

The package holds the method (attribution, alignment, the teacher cache, rewards) and the ground that
every compared method shares (data, tools, prompts, answers, models, the trainer). It imports none of
the sibling packages: ``baselines`` and ``benchmarks`` build on it, never the other way round.
"""
