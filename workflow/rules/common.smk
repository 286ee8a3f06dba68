"""The validated configuration, shared paths and what runs before the first job."""

import hashlib
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path

from iapo.config.schema import ConfigError, load_config
from iapo.config.method_registry import resolve, tuned_method
from iapo.jobs.ending import (
    hand_on_interrupts,
    name_as_starter,
    silent_imports,
)
from iapo.jobs.estimate import estimate, estimate_text
from iapo.jobs.limits import limits
from iapo.jobs.model_sizes import (
    UnknownModelError,
    UnsupportedModelError,
    learn_sizes,
    model_size,
)
from iapo.jobs.preflight import (
    PreflightError,
    check_methods,
    check_start,
    check_tracker,
    claim_results,
)
from iapo.artifacts.code_digest import code_of, keep_facts
from iapo.artifacts.run_record import RecordError
from iapo.config.declared import declare
from iapo.jobs.clock import settle_future_files
from iapo.hub.files import HubError
from iapo.jobs.copied_results import age_other_table, restore_metadata
from iapo.jobs.places import (
    check_clone,
    quote_interpreter,
    use_utf8,
    use_writable_caches,
)
from iapo.jobs.room import check_room
from iapo.types import TEST_SETS

quote_interpreter()
name_as_starter()
shell.prefix(silent_imports())
use_writable_caches(Path())
use_utf8()

try:
    check_clone(Path())
    # Imports the file of every method, and says which one cannot be.
    from baselines import METHODS

    CONFIG = load_config(config)
    check_methods(CONFIG, METHODS)
    check_tracker(CONFIG)
    # Name in the table → its method and the configuration that it is trained with.
    RESOLVED = {
        name: resolve(name, CONFIG, METHODS)
        for name in dict.fromkeys([*CONFIG.methods, *CONFIG.ablated])
    }
    # The same → the method whose trials choose its weight; None where nothing is chosen.
    TUNED = {name: tuned_method(name, CONFIG, METHODS) for name in RESOLVED}
    RESOLVED |= {
        name: resolve(name, CONFIG, METHODS)
        for name in TUNED.values()
        if name not in (None, *RESOLVED)
    }
except (ConfigError, PreflightError) as error:
    sys.exit(f"error: {error}")

RESULTS = Path("results") / CONFIG.profile


wildcard_constraints:
    method="[a-z0-9_]+",
    policy="student|teacher",
    seed=r"\d+",
    split="train|dev|test",
    cache="[a-z0-9]+",
    part=r"\d+",
    start=r"\d+",
    stage="|".join(["cold", "first_stage", *CONFIG.student.habits]),
    habit="|".join(CONFIG.student.habits) or "none",


def estimated():
    """What the run needs; None on a CPU and where sizes are not known. On either device other families are refused."""
    on_gpu = CONFIG.device == "cuda"
    try:
        for pretrained in CONFIG.pretrained_models:
            learn_sizes(pretrained.source, CONFIG.hub)
            model_size(pretrained.source, CONFIG.hub)
        return estimate(CONFIG, METHODS) if CONFIG.sources and on_gpu else None
    except UnsupportedModelError as error:
        sys.exit(f"error: {error}")
    except (UnknownModelError, HubError) as error:
        # On a CPU none is asked for; the download itself says what is wrong with the hub.
        if on_gpu:
            print(f"no estimate: {error}", file=sys.stderr)
        return None


NEEDS = estimated()


def check_machine() -> None:
    """Say what a run with pretrained models needs, and refuse to start it where that is not there."""
    if NEEDS:
        print(estimate_text(NEEDS), file=sys.stderr)
    check_start(
        CONFIG,
        folder=Path(),
        memory_gb=NEEDS.memory_gb if NEEDS else None,
        disk_gb=NEEDS.disk_gb if NEEDS else None,
        asks_verifier=any(method.uses_verifier for method, _ in RESOLVED.values()),
        jobs_elsewhere=workflow.non_local_exec,
    )


onstart:
    check_room(RESULTS)
    claim_results(RESULTS)
    check_machine()
    # A cluster's jobs are not below this process; Snakemake cancels them.
    if not workflow.non_local_exec:
        hand_on_interrupts()


def logs(name: str) -> str:
    """Where a rule logs."""
    return str(RESULTS / "logs" / f"{name}.log")


def cache_name(resolved) -> str:
    """Folder of the teacher's cache under these attribution settings; ``main`` is the profile's own."""
    settings, own = (
        declare(each, "teacher_attribution") for each in (resolved, CONFIG)
    )
    if settings == own:
        return "main"
    return hashlib.sha256(repr(settings).encode()).hexdigest()[:8]


def reads_cache(name: str) -> bool:
    """Whether a method's training reads the teacher's cache: its attributions, or its calls."""
    return RESOLVED[name][0].reads_cache


CACHES = {"main": CONFIG} | {
    cache_name(resolved): resolved
    for name, (_, resolved) in RESOLVED.items()
    if reads_cache(name)
}


# What the student has learned where every method starts, but variants with a habit of their own.
STUDENT_STAGE = "first_stage" if CONFIG.student.first_stage else "cold"
FIRST_SEED = CONFIG.seeds[0]


def stage_of(name: str) -> str:
    """What the student has learned before a method or variant trains it."""
    variant = CONFIG.all_variants.get(name)
    return (variant.start if variant else None) or STUDENT_STAGE


def start_weights(stage: str, start: int | str) -> Path:
    """Weights of the student behind a stage, of the cold start with this number."""
    if stage == "first_stage":
        return RESULTS / f"first_stage/start{start}/model/model.safetensors"
    return RESULTS / f"models/student/{stage}/start{start}/model.safetensors"


def trained_from(name: str, seed: int) -> Path:
    """Weights that a method's policy of this seed is trained from."""
    return start_weights(stage_of(name), CONFIG.start_of[seed])


# What is measured on one policy for all, as every trial of a weight is, starts from this.
STUDENT_START = start_weights(STUDENT_STAGE, CONFIG.start_of[FIRST_SEED])


def teacher_weights(start: int | str, seed: int | str | None = None) -> Path:
    """Weights of the teacher of this cold start that was trained with a GRPO seed; by default of the one with a cache.

    Of one that is not trained, its start.
    """
    if not CONFIG.teacher.trained:
        return RESULTS / f"models/teacher/cold/start{start}/model.safetensors"
    seed = CONFIG.teacher.train_seed + int(start) if seed is None else seed
    return RESULTS / f"teacher/start{start}/seed{seed}/model/model.safetensors"


def student_calls(stage: str, start: int | str, suffix: str = "parquet") -> Path:
    """Calls sampled from a start of the student; as ``json`` how often they are right."""
    return RESULTS / f"student_calls/{stage}/start{start}.{suffix}"


def measured_starts(*names: str) -> list[Path]:
    """How often the calls of the starts of some methods are right, as inputs."""
    stages = dict.fromkeys(stage_of(name) for name in names)
    starts = sorted(set(CONFIG.start_of.values()))
    return [student_calls(stage, start, "json") for stage in stages for start in starts]


def cached_calls(cache: str, teacher: int) -> list[Path]:
    """Calls of all starts whose policies read a cache of this teacher, as inputs."""
    users = [
        name
        for name in RESOLVED
        if reads_cache(name) and cache_name(RESOLVED[name][1]) == cache
    ]
    stages = sorted({stage_of(name) for name in users}) or [STUDENT_STAGE]
    starts = {
        CONFIG.start_of[seed]
        for seed in CONFIG.seeds
        if CONFIG.teacher_of[seed] == teacher
    }
    return [student_calls(stage, start) for stage in stages for start in sorted(starts)]


def gpus(count: int = 1) -> int:
    """GPUs that a job asks for."""
    return count if CONFIG.device == "cuda" else 0


def memory(kind: str) -> int:
    """Megabytes of the machine's own memory that a cluster is asked for, for jobs of a kind of the estimate's."""
    return limits(kind, NEEDS).mem_mb


def minutes(kind: str) -> int:
    """Minutes after which a cluster may end a job of a kind of the estimate's."""
    return limits(kind, NEEDS).runtime


def policy_weights(name: str, seed: int | str) -> Path:
    """Weights of a row of the table; for rows that no method trains, the seed is the number of the start."""
    if name == "first_stage":
        return start_weights("first_stage", seed)
    if name == "teacher_untrained":
        return RESULTS / f"models/teacher/cold/start{seed}/model.safetensors"
    if name == "teacher":
        return teacher_weights(seed)
    if name in CONFIG.reference_policies:
        return start_weights(name.removeprefix("untrained").strip("_") or "cold", seed)
    return RESULTS / f"train/{name}/seed{seed}/model/model.safetensors"


def code(script: str, *entries: str) -> str:
    """Digest of a job's script and of all code that it imports, and of what else decides its result."""
    return code_of(f"workflow/scripts/{script}.py", *entries)


def method_code(method: str) -> list[str]:
    """Modules of a method's own rewards and trainer; the training script names no method by itself."""
    resolved = RESOLVED[method][0] if method in RESOLVED else METHODS[method]
    trainer = [resolved.trainer.partition(":")[0]] if resolved.trainer else []
    return [resolved.rewards.__module__, *trainer]


def training_code(method: str) -> str:
    """Digest of what trains a method: the shared ground and its own modules, so that a new baseline retrains no other."""
    return code("train_policy", *method_code(method))


# Jobs that the longest chains wait for go first; else one chain is left alone at the end, on one core.
EARLY = 10


def teacher_cache(method: str, seeds=(FIRST_SEED,)) -> list[Path]:
    """The cache of each seed's teacher as inputs, for methods that read it."""
    if method not in RESOLVED or not reads_cache(method):
        return []
    name = cache_name(RESOLVED[method][1])
    return [
        RESULTS / f"teacher/start{CONFIG.teacher_of[seed]}/cache/{name}.stats.json"
        for seed in seeds
    ]


def asked_teacher(method: str, seeds=(FIRST_SEED,)) -> list[Path]:
    """The weights of each seed's teacher as inputs, for methods that ask it while they train."""
    if not RESOLVED[method][0].asks_teacher(CONFIG):
        return []
    return [teacher_weights(CONFIG.teacher_of[seed]) for seed in seeds]


def choice(method: str) -> list[Path]:
    """The weight that was chosen on the dev split, as an input."""
    tuned = TUNED.get(method)
    return [RESULTS / f"tuning/{tuned}.json"] if tuned else []


def training_settings(method: str) -> dict:
    """What a method's training reads of the configuration, and nothing else."""
    resolved, config = RESOLVED[method]
    return declare(config, *resolved.settings_read)


def trial_settings(method: str) -> dict:
    """The same for the trials that choose its weight."""
    resolved, config = RESOLVED[method]
    config = replace(config, hardware=config.hardware.of_trials)
    return declare(config, *resolved.settings_read)


def outcome_settings(train) -> dict:
    """The same for the runs on the outcome alone that come before the methods': the teacher's, the first stage's."""
    return declare(replace(CONFIG, train=train), *METHODS["vtool_r1"].settings_read)


def method_of(name: str) -> str:
    """Key of ``METHODS`` of a row of the table: its own name, or its variant's method."""
    variant = CONFIG.all_variants.get(name)
    return variant.method if variant else name


def teacher_verdict(*names: str) -> list[Path]:
    """Whether the teacher is informative, as an input, where one of these compares with the cached teacher."""
    asks = any(name in RESOLVED and RESOLVED[name][0].uses_teacher for name in names)
    return [RESULTS / "informative.json"] if asks else []


def parts_of_table() -> list[Path]:
    """What the table follows from, step by step.

    Snakemake makes a missing file again only where a job that must run asks for it, or a target that is no file: as
    inputs of the latter, parts that someone has removed are made again with all that follows from them.
    """
    rows, trained = CONFIG.evaluated_runs, CONFIG.trained_runs
    own = [
        (name, run)
        for name, run in rows
        if name != "api" and name not in CONFIG.released
    ]
    parts = [RESULTS / "data/manifest.json", *teacher_verdict(*CONFIG.methods)]
    parts += [policy_weights(*row) for row in own]
    parts += [trained_from(*run) for run in trained]
    parts += [
        path
        for name, seed in trained
        for path in (
            *teacher_cache(name, [seed]),
            *asked_teacher(name, [seed]),
            *choice(name),
            RESULTS / f"train/{name}/seed{seed}/metrics.csv",
        )
    ]
    parts += [
        calls
        for name, seed in trained
        if reads_cache(name)
        for calls in cached_calls(
            cache_name(RESOLVED[name][1]), CONFIG.teacher_of[seed]
        )
    ]
    parts += [RESULTS / f"eval/{name}/seed{run}/records.parquet" for name, run in rows]
    return list(dict.fromkeys(parts))


# What a repository is asked for: weights in one format only, and of the data what the ingest reads.
WANTED = {
    "model": ["*.json", "*.safetensors", "*.txt", "*.jinja"],
    "dataset": ["test_data_with_bounding_box*", "images/*", "train_raw_data/*chartqa*"],
}


def fetched(repo: str) -> Path:
    """The file that says that a repository is here, whole and verified."""
    return Path(CONFIG.hub.downloads) / repo / "fetched.json"


def prompt_file(sha256: str) -> Path:
    """The downloaded text that released weights were trained to answer to."""
    return Path(CONFIG.hub.downloads) / f"prompts/{sha256}.txt"


def pixel_bounds(pretrained) -> dict[str, int]:
    """Bounds on an image's area that a model was trained with, pixels."""
    return {"min_pixels": pretrained.min_pixels, "max_pixels": pretrained.max_pixels}


def kind_of(repo: str) -> str:
    """Models and datasets have different addresses on the hub."""
    data = CONFIG.data.refocus
    return "dataset" if data and data.source.repo == repo else "model"


def pretrained_source(policy: str) -> list[Path]:
    """The downloaded weights of the student or the teacher, where it is a pretrained model."""
    pretrained = getattr(CONFIG, policy).model.pretrained
    return [fetched(pretrained.source.repo)] if pretrained else []


def policies_of(condition: str) -> list[tuple[str, int, Path]]:
    """Condition, seed and weights of its policies; of one that no method trains, the seed is the number of a start."""
    row = CONFIG.start_policy if condition == "cold" else condition
    seeds = CONFIG.reference_starts.get(row, CONFIG.seeds_of(row))
    return [(condition, seed, policy_weights(row, seed)) for seed in seeds]


# Of one job, or of each of several, whose caches are joined.
CACHE_JOBS = CONFIG.hardware.cache_jobs
CACHE_FOLDER = RESULTS / "teacher/start{start}/cache"
CACHE_PART = f"{{cache}}_part{{part}}of{CACHE_JOBS}" if CACHE_JOBS > 1 else "{cache}"


def part_path(wildcards, suffix: str) -> Path:
    """A file beside what one job of the cache makes."""
    return Path(
        f"{CACHE_FOLDER}/{CACHE_PART}{suffix}".format(**dict(wildcards.items()))
    )


def prompts_to_score(wildcards) -> Path:
    """The manifest of the data whose training prompts one job of the cache scores."""
    if CACHE_JOBS > 1:
        return part_path(wildcards, "_prompts/manifest.json")
    return RESULTS / "data/manifest.json"


def calls_to_score(wildcards) -> list[Path]:
    """The students' calls on these prompts."""
    if CACHE_JOBS > 1:
        return [part_path(wildcards, "_prompts/calls.parquet")]
    return cached_calls(wildcards.cache, int(wildcards.start))
