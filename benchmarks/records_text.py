"""What the columns of records mean that no class describes: metrics of a step, tables, run records.

:mod:`benchmarks.records_page` writes them into ``docs/records.md``; tests hold the names against what is written.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.tables.training import DYNAMICS

METRICS: Mapping[str, str] = {
    "advantage/<name>_alone": "Share of groups in which this term alone adds to the advantage.",
    "advantage/<name>_share": "The term's part of the advantages; the terms' shares sum to 1, or to 0 where nothing "
    "differs.",
    "advantage/<name>_std": "Standard deviation of the weighted term within groups, in units of the reward.",
    "advantage/flat_groups": "Share of groups whose advantages are all 0.",
    "advantage/flat_outcomes": "Share of groups whose outcomes are all equal.",
    "alignment/coverage": "Share of calls for which the cache has a row to compare with.",
    "alignment/loss": "Divergence as a differentiable loss (`alignment.loss_weight`).",
    "alignment/non_finite": "Share of penalties that are not finite.",
    "alignment/penalty": "Mean divergence from the teacher, before its weight.",
    "alignment/penalty_std": "Its standard deviation over the step.",
    "attribution/convergence_delta_median": "Median error of completeness, no unit.",
    "attribution/distinct_calls": "Calls that were attributed, equal ones of a group once.",
    "attribution/groups_too_long": "Groups left out, since a prompt and call exceed `attribution.max_tokens`.",
    "attribution/share_<block>": "Mean share of the block P, R, I or T in the student's attributions.",
    "cache/<kind>": "Share of calls whose look-up ended as a kind of docs/teacher_cache.md: `exact`, `nearest`, ...",
    "dev/accuracy": "Share of right greedy answers to the dev questions, at the steps of `train.dev_every`.",
    "dev/right_calls": "Share of these whose call is right.",
    "distillation/loss": "The loss of the methods that distil the teacher.",
    "distillation/prompts_with_calls": "Share of prompts for which the teacher has a right call to imitate.",
    "distillation/tokens": "Tokens that this loss is over.",
    "passes/padding": "Share of padding in the trainer's passes.",
    "passes/padding_untrimmed": "The same before each pass was cut to its own rollouts.",
    "seconds/<part>": "Wall-clock seconds of a part of the step, such as `generation`, `attribution` or `step`.",
    "seconds/dev": "Wall-clock seconds of the dev questions.",
    "tools/call_rate": "Share of rollouts that attempt a call.",
    "tools/malformed_rate": "Share of rollouts whose call cannot be read.",
    "tools/success_rate": "Share of attempts that were executed.",
    "verifier/approved": "Share of verdicts that are 1.",
    "verifier/asked": "Tool uses that the verifier was asked about.",
    "verifier/failures": "Share of these without a verdict.",
    "verifier/failures/<cause>": "The same by cause.",
}
"""Column of ``metrics.csv`` → meaning; ``<name>`` is a term's function, such as ``outcome_reward``."""

_INTERVAL = {"low": "Lower end of its 95 % interval.", "high": "Upper end."}
_METHOD = {"method": "The policy."}
_PAIR = {**_METHOD, "baseline": "What it is compared with."}
_DETECTABLE = "Smallest difference that a comparison like this one finds with the chance `statistics.power`."

TABLES: Mapping[str, Mapping[str, str]] = {
    "main": {
        **_METHOD,
        "test_set": "The set, or `average`: the unweighted mean over the sets.",
        "n_items": "Questions.",
        "n_seeds": "Runs.",
        "accuracy": "Mean score over questions and runs.",
        "ci_low": "Lower end of its 95 % interval over questions and runs.",
        "ci_high": "Upper end.",
        "delta_vs_vtool_r1": "Difference to the reference method (`statistics.reference_method`), paired by question.",
        "delta_low": "Lower end of its 95 % interval.",
        "delta_high": "Upper end.",
        "tool_call_rate": "Calls attempted per question.",
        "tool_success_rate": "Calls executed per attempt.",
        "by_seed": "Every run's accuracy, separated by spaces.",
        "collapsed": "Runs that ended below the policy that they started from.",
        "profile": "Profile of the run.",
        "p_adjusted": "p-value of the difference, corrected over the methods.",
        "detectable": _DETECTABLE,
        "verdict": "In words.",
        "reported": "Accuracy that others have published.",
        "reported_scorer": "What that was scored by.",
        "reported_source": "Where it stands.",
        "flags": "Monitors that raise a flag at the end of its runs.",
    },
    "contrasts": {
        **_PAIR,
        "role": "`check of sensitivity` (the oracle's) or `primary`.",
        "delta": "Difference of the average over the sets.",
        **_INTERVAL,
        "p": "Its p-value.",
        "p_sequence": "The same, adjusted for the fixed sequence: the largest so far.",
        "detectable": _DETECTABLE,
        "run_sd": "Standard deviation of the runs' differences.",
        "items_error": "Standard error that the questions alone give the difference of these runs, by asked label.",
        "verdict": "In words.",
        "by_seed": "Every run's difference, separated by spaces.",
        "oracle_share": "The difference over the oracle's gain.",
        "oracle_share_low": "Lower end of its interval (Fieller).",
        "oracle_share_high": "Upper end.",
        "oracle_share_reason": "Why there is none.",
    },
    "differences": {
        **_PAIR,
        "delta": "Difference of the average over the sets.",
        **_INTERVAL,
        "p": "Its p-value.",
        "mcnemar_p": "McNemar's p-value of the same answers.",
        "p_adjusted": "p-value corrected over the rows with the same baseline.",
        "detectable": _DETECTABLE,
        "verdict": "In words.",
    },
    "calls": {
        **_METHOD,
        "accuracy": "Mean score over all answers.",
        "right_calls": "Share of answers whose first call names exactly the annotated labels.",
        "other_calls": "Share with another call.",
        "no_calls": "Share without a call.",
        "right_after_right": "Share of right answers after a right call.",
        "right_after_other": "After another call.",
        "right_after_no": "Without a call.",
        "room": "What accuracy would gain if every call were right and answered as well as those that are.",
    },
    "image_help": {
        **_METHOD,
        "accuracy": "With tools.",
        "accuracy_original": "With the same call, but the original image returned.",
        "accuracy_off": "Without tools.",
        "help": "`accuracy` − `accuracy_original`.",
        "help_low": "Lower end of its 95 % interval.",
        "help_high": "Upper end.",
        "gain": "Share of questions answered rightly only with the edited image.",
        "harm": "Only with the original.",
        "call_gain": "Share answered wrongly without tools, rightly with them after a call (MED, arXiv 2602.01334).",
        "schema_gain": "The same without a call.",
        "call_harm": "Rightly without tools, and wrongly with them after a call.",
        "schema_harm": "The same without a call.",
    },
    "scorers": {
        **_METHOD,
        "test_set": "The set, or `average`.",
        "ours": "Mean score by our rule.",
        "official": "By the set's own published rule.",
        "disagree": "Share of answers that the two judge differently.",
    },
    "dynamics": {
        **_METHOD,
        "step": "Optimizer step; 0 is before training.",
        "n_seeds": "Runs.",
        **{
            f"{name}_{how}": f"{word} over the runs of `{metric}`."
            for name, metric in DYNAMICS.items()
            for how, word in {"mean": "Mean", "min": "Smallest", "max": "Largest"}.items()
        },
        "dev_area": "Mean dev accuracy over a run's steps (area under its curve), mean over the runs.",
        "dev_area_by_seed": "Every run's.",
        "steps_to_target": "First step with dev accuracy of at least `statistics.target_accuracy`, mean over the runs.",
        "steps_to_target_by_seed": "Every run's; `-` for a run that did not get there.",
    },
    "cost": {
        "what": "A method, or a stage that all methods share.",
        "runs": "Jobs.",
        "device": "`CPU` or `GPU`.",
        "hours": "Of all jobs together: wall time times threads on a CPU, times GPUs on a GPU.",
        "seconds_per_run": "Median of a job.",
        "seconds_per_step": "Median of a training step.",
        "attribution_share": "Share of the training step that the attribution takes.",
        "verifier_share": "Share that the verifier takes.",
    },
    "tuning": {
        **_METHOD,
        "key": "Setting that was chosen.",
        "factor": "What its configured value was multiplied by.",
        "weight": "Its value in this trial.",
        "accuracy": "Dev accuracy of this trial.",
        "standard_error": "Of that accuracy, over questions.",
        "call_rate": "Calls attempted per question.",
        "items": "Dev questions.",
        "chosen": "Whether the main table's runs use it.",
    },
    "reported": {
        **_METHOD,
        "test_set": "The set, `average`, or the authors' own split.",
        "model": "What was trained.",
        "measured_on": "The questions.",
        "scorer": "What the answers were scored by.",
        "percent": "Accuracy in percent.",
        "source": "Who reports it.",
        "place": "Where in the source.",
        "kind": "How it came here, such as `quoted`.",
        "certainty": "How sure that is.",
    },
    "ablations": {
        "setting": "Key of the setting that was changed.",
        "value": "Its value.",
        "accuracy": "Average over the sets.",
        "call_rate": "Calls attempted per question.",
        "penalty": "Mean penalty of the second half of training.",
        "n_seeds": "Runs.",
        "delta": "Difference to the method as configured.",
        **_INTERVAL,
        "p": "Its p-value.",
        "verdict": "In words.",
    },
}
"""Table → column → meaning, in the order of the file. Rates and differences are fractions, in [0, 1] and [-1, 1]."""

MISSES: Mapping[str, str] = {
    "prompt_key": "Address of the prompt in the cache.",
    "turn": "The student's turn, with the call.",
    "count": "How often it was looked up.",
}
"""Key of a line of ``misses.jsonl`` → meaning."""

RUN_RECORD: Mapping[str, str] = {
    "started": "Time at which the job began, UTC.",
    "wall_seconds": "How long it took.",
    "peak_memory_mb": "Most memory that its process held.",
    "commit": "Commit of the code; null outside a git checkout.",
    "dirty": "Whether files differed from it.",
    "lock": "SHA-256 of `requirements.lock`, the packages that were to be installed.",
    "command": "Command line of the process.",
    "inputs": "Each input file, with its SHA-256.",
    "outputs": "Each output file, by its path from the record's folder, with its SHA-256 and bytes.",
    "seeds": "Every seed used, by what it seeds.",
    "facts": "Figures worth keeping with the artefact.",
    "threads": "CPU threads of the job.",
    "hardware": "Processor, memory, GPUs.",
    "versions": "Versions of Python and of the packages that matter.",
    "config": "The run's whole configuration.",
    "plan": "What Snakemake planned the job by: rule, outputs, params, declared settings, digest of the code.",
    "settings_read": "Settings that the job has read.",
    "record_sha256": "Digest of the record's other keys, by which it is known to be as it was written.",
}
"""Key of a ``.run.json`` → meaning."""

GIVEN_BY_TRL: Mapping[str, tuple[str, str]] = {
    "prompts": ("list[Message]", "Messages before the rollout: one, with the figure and the question."),
    "completions": ("list[Message]", "Messages of the rollout: its turns, and the tool's answer between them."),
    "completion_ids": ("list[int]", "Its token ids."),
    "environments": ("FigureEnvironment", "Its tools, as they are after it: `calls`, `succeeded`."),
}
"""What TRL gives a reward besides the row's columns → type of one rollout's, and meaning."""

GIVEN_ONCE: Mapping[str, tuple[str, str]] = {
    "trainer_state": ("TrainerState", "Once, not a list: where the training is (`global_step`, from 0)."),
    "log_metric": ("(name, value) -> None", "Once: logs a number of this step into `metrics.csv`."),
    "log_extra": ("(name, values) -> None", "Once: adds a column to TRL's own table of completions."),
}
"""The same of what comes once and not for each rollout."""
