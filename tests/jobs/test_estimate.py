"""Formulas of the estimate, compared with real models, published figures and common sense."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from baselines import METHODS
from iapo.attribution.shared_prompts import forward_engine as shared_blocks
from iapo.attribution.shared_prompts import forward_mode as block_tangents
from iapo.attribution.shared_prompts.forward_mode import TangentLayout, prompt_memory
from iapo.config.method import AttributionConfig
from iapo.config.schema import Config, load_config
from iapo.config.sources import HardwareConfig, HubConfig, RepositoryConfig
from iapo.jobs import memory
from iapo.jobs.estimate import Estimate, estimate, estimate_text, hours_text
from iapo.jobs.lengths import Lengths, longest_lengths, typical_lengths
from iapo.jobs.memory import attribution_bytes, host_memory, saved_activations, training_memory, training_states
from iapo.jobs.model_sizes import ModelSize, UnknownModelError, UnsupportedModelError, learn_sizes, model_size
from iapo.jobs.stages import candidates, questions
from iapo.jobs.times import Rates, attribution_flops, generation_seconds, step_seconds, sustained, update_flops
from iapo.models.vision_windows import batch_windows

SMALL = RepositoryConfig(repo="Qwen/Qwen2.5-VL-3B-Instruct", revision="0" * 40)
LARGE = RepositoryConfig(repo="Qwen/Qwen2.5-VL-7B-Instruct", revision="0" * 40)
PETAFLOP = 1e15


def _qwen(size: ModelSize, **vision: int) -> Qwen2_5_VLConfig:
    sections = [size.hidden // size.heads // part for part in (4, 8, 8)]
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": size.vocabulary,
            "hidden_size": size.hidden,
            "intermediate_size": size.mlp,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            "tie_word_embeddings": size.tied,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_hidden,
            "intermediate_size": size.vision_mlp,
            "out_hidden_size": size.hidden,
            "num_heads": 16,
        }
        | vision,
        tie_word_embeddings=size.tied,
    )


@pytest.mark.parametrize(("source", "billions"), [(SMALL, 3.75), (LARGE, 8.29)])
def test_parameters_are_those_of_the_real_model(source: RepositoryConfig, billions: float) -> None:
    size = model_size(source, HubConfig())
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(_qwen(size))
    model.tie_weights()
    assert size.parameters == sum(each.numel() for each in model.parameters())
    assert size.vision == sum(each.numel() for each in model.model.visual.parameters())
    assert size.layer == sum(each.numel() for each in model.model.language_model.layers[0].parameters())
    assert size.parameters / 1e9 == pytest.approx(billions, abs=0.01)


def test_another_model_is_read_from_its_configuration(tmp_path: Path) -> None:
    size, hub = ModelSize(2, 64, 176, 4, 2, 1000, False, 3, 32, 80), HubConfig(downloads=str(tmp_path))
    other = RepositoryConfig(repo="Someone/Other", revision="0" * 40)
    with pytest.raises(UnknownModelError, match=r"Someone/Other: found no sizes of it .*once a run has downloaded it"):
        model_size(other, hub)
    _qwen(size, num_heads=2).save_pretrained(tmp_path / other.repo)
    assert model_size(other, hub) == size


def test_sizes_are_learned_from_one_small_file_and_other_families_refused(tmp_path: Path) -> None:
    size = ModelSize(2, 64, 176, 4, 2, 1000, False, 3, 32, 80)
    hub = HubConfig(address=str(tmp_path / "hub"), downloads=str(tmp_path / "downloads"))
    other = RepositoryConfig(repo="Someone/Other", revision="0" * 40)
    _qwen(size, num_heads=2).save_pretrained(tmp_path / "hub" / other.repo)
    (tmp_path / "hub" / other.repo / "model.safetensors").write_bytes(b"large")
    learn_sizes(other, hub)
    assert model_size(other, hub) == size
    assert not list((tmp_path / "downloads").rglob("*.safetensors"))
    config = tmp_path / "hub" / "Someone/Else/config.json"
    config.parent.mkdir(parents=True)
    config.write_text('{"model_type": "qwen3_vl"}')
    another = RepositoryConfig(repo="Someone/Else", revision="0" * 40)
    learn_sizes(another, hub)
    with pytest.raises(UnsupportedModelError, match="found model_type 'qwen3_vl', expected 'qwen2_5_vl'"):
        model_size(another, hub)


def _saved(model: torch.nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for the backward pass, parameters aside."""
    parameters = {each.untyped_storage().data_ptr() for each in model.parameters()}
    found: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(forward())
    return sum(found.values())


@pytest.mark.parametrize(
    ("arithmetic", "weights"), [("bfloat16", torch.bfloat16), ("float32", torch.float32), ("mixed", torch.float32)]
)
def test_saved_activations_are_those_of_the_real_layers(arithmetic: Any, weights: torch.dtype) -> None:
    """A layer more and a token more: what they add, so that the ends of the model do not count."""
    batch_windows()  # as every run does that loads a model
    shape = ModelSize(1, 256, 688, 4, 1, 100, True, 1, 160, 430)

    def bytes_of(layers: int, tokens: int, patches_wide: int) -> int:
        config = _qwen(replace(shape, layers=layers, vision_layers=layers), num_heads=2)
        model = Qwen2_5_VLForConditionalGeneration(config).to(weights).train()
        embeddings = torch.randn(1, tokens, shape.hidden, dtype=weights, requires_grad=True)
        pixels = torch.randn(patches_wide**2, 3 * 2 * 14 * 14, dtype=weights)
        grid = torch.tensor([[1, patches_wide, patches_wide]])

        def forward() -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=arithmetic == "mixed"):
                return model.model.language_model(inputs_embeds=embeddings, use_cache=False), model.model.visual(
                    pixels, grid
                )

        return _saved(model, forward)

    def layer(tokens: int, patches_wide: int) -> int:
        return bytes_of(2, tokens, patches_wide) - bytes_of(1, tokens, patches_wide)

    few = layer(64, 8)
    assert (layer(192, 8) - few) == pytest.approx(saved_activations(shape, arithmetic, 128), rel=0.02)
    assert (layer(64, 16) - few) == pytest.approx(saved_activations(shape, arithmetic, 0, 192), rel=0.02)


@pytest.mark.parametrize(
    ("arithmetic", "weights"), [("bfloat16", torch.bfloat16), ("float32", torch.float32), ("mixed", torch.float32)]
)
def test_what_tangents_hold_is_what_the_real_layers_do(arithmetic: Any, weights: torch.dtype) -> None:
    """An image that is longer by 600 tokens, of a prompt whose tools stand first: what it adds, so that weights do not
    count."""
    shape = ModelSize(4, 256, 1376, 4, 1, 100, True, 1, 160, 430)
    model = Qwen2_5_VLForConditionalGeneration(_qwen(shape, num_heads=2)).to(weights).eval()

    def held(longest: Lengths) -> int:
        tokens = longest.prompt
        at = TangentLayout(tokens, (tokens, tokens, tokens - longest.image, 0))
        assert tokens + len(at.token) == longest.moving
        hidden_states, positions = torch.randn(1, longest.moving, shape.hidden), torch.arange(tokens)
        tracker = MemTracker()
        tracker.track_external(model, hidden_states)
        with tracker, torch.autocast("cpu", torch.bfloat16, enabled=arithmetic != "float32"):
            prompt_memory(
                model.model.language_model, hidden_states, positions.expand(3, 1, -1), torch.ones(1, tokens).long(), at
            )
        return sum(device["Total"] for device in tracker.get_tracker_snapshot("peak").values())

    def reckoned(longest: Lengths) -> float:
        return attribution_bytes(shape, AttributionConfig(tokens_per_forward=1), longest, arithmetic)

    short, long = Lengths(400, 0, 0), Lengths(1000, 0, 0)
    assert 0.8 < (held(long) - held(short)) / (reckoned(long) - reckoned(short)) <= 1
    assert memory._LOGITS_TOGETHER == shared_blocks._LOGITS_TOGETHER
    assert 4 * 4 * block_tangents._SCORES_TOGETHER["cuda"] == memory._SCORE_BYTES


def test_states_are_those_of_the_zero_paper() -> None:
    """Its figure 1 (arXiv 1910.02054): 7.5 billion parameters on 64 GPUs hold 120, 16.6 or 1.9 GB a GPU."""
    size = model_size(LARGE, HubConfig())
    scale = 7.5e9 / size.parameters

    def held(**hardware: Any) -> float:
        return training_states(size, HardwareConfig(**hardware), reference=False) * scale / 1e9

    assert held() == pytest.approx(120, rel=0.01)
    assert held(processes=64, strategy="zero2") - 2 * scale == pytest.approx(16.6, rel=0.01)
    gathered = 2 * (size.embeddings + 2 * size.layer) * scale / 1e9
    assert held(processes=64, strategy="fsdp2") - gathered == pytest.approx(1.9, rel=0.02)


def test_arithmetic_is_that_of_the_design_notes() -> None:
    """3B and a group of 8: update .70 PF, attribution naive 12.8 PF and 8 points on 4 calls 1.0 PF; a prompt's 12 calls
    with 16 points by the 7B teacher 14 PF. Their lengths are not given; these are assumed."""
    typical = Lengths(image=1000, turn=256, completion=1512)
    student, teacher = model_size(SMALL, HubConfig()), model_size(LARGE, HubConfig())

    def attributed(size: ModelSize, points: int, calls: int) -> float:
        return attribution_flops(size, AttributionConfig(n_steps=points), calls, typical) / PETAFLOP

    assert 1 / 1.25 < update_flops(student, 8, typical) / PETAFLOP / 0.70 < 1.25
    assert 1 / 1.25 < attributed(student, 50, 8) / 12.8 < 1.25
    assert 1 / 1.25 < attributed(student, 8, 4) / 1.0 < 1.25
    assert 1 / 1.25 < attributed(teacher, 16, 12) / 14 < 1.25
    shared = attribution_flops(teacher, AttributionConfig(n_steps=16), 12, typical, prompts=1) / PETAFLOP
    by_gradients = AttributionConfig(n_steps=16, magnitudes=True)
    gradients = attribution_flops(teacher, by_gradients, 12, typical, prompts=1) / PETAFLOP
    assert attributed(teacher, 16, 12) / 2 < gradients < attributed(teacher, 16, 12) * 0.65
    assert attributed(teacher, 16, 12) / 4 < shared < attributed(teacher, 16, 12) * 0.4


def _config(**changes: Any) -> Config:
    raw: dict[str, Any] = {
        "profile": "test",
        "device": "cuda",
        "methods": ["vtool_r1", "torl", "trm", "iapo"],
        "data": {"refocus": {"source": {"repo": "ReFocus/ReFocus_Data", "revision": "0" * 40}}},
        "student": _model(SMALL),
        "teacher": {**_model(LARGE), "train": {"rollouts": "vllm_server"}},
        "train": {
            "groups_per_step": 64,
            "turn_tokens": 1024,
            "max_completion_length": None,
            "rollouts": "vllm_colocate",
        },
        "hardware": {"processes": 4, "strategy": "fsdp2", "rollouts_per_forward": 2, "precision": "bfloat16"},
        "tuning": {"steps": 15},
    }
    for section, values in changes.items():
        raw[section] = raw.get(section, {}) | values if isinstance(values, dict) else values
    return load_config(raw)


def _found(**changes: Any) -> Estimate:
    return estimate(_config(**changes), METHODS)


def _model(source: RepositoryConfig) -> dict[str, Any]:
    return {"model": {"pretrained": {"source": {"repo": source.repo, "revision": source.revision}}}}


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"hardware": {"checkpoint_activations": True}}, {}),
        ({"hardware": {"processes": 8}}, {}),
        ({}, {"hardware": {"strategy": "zero2"}}),
        ({}, {"hardware": {"strategy": "ddp"}}),
        ({"hardware": {"strategy": "ddp", "lora_rank": 64}}, {"hardware": {"strategy": "ddp"}}),
        ({"hardware": {"rollouts_per_forward": 1}}, {}),
        (
            {"hardware": {"vllm_memory": 0.4, "checkpoint_activations": True}},
            {"hardware": {"vllm_memory": 0.8, "checkpoint_activations": True}},
        ),
        ({"train": {"rollouts": "vllm_server"}}, {}),
        ({"train": {"max_completion_length": 2048}}, {}),
        ({"train": {"turn_tokens": 256}}, {}),
        ({}, {"train": {"kl_beta": 0.01}}),
    ],
)
def test_what_needs_less_memory(less: dict[str, Any], more: dict[str, Any]) -> None:
    def trained(changes: dict[str, Any]) -> float:
        return next(stage.memory_gb for stage in _found(**changes).stages if stage.name == "train methods")

    assert trained(less) < trained(more)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"attribution": {"tokens_per_forward": 32768}}),
        ({}, {"hardware": {"precision": "float32"}}),
    ],
)
def test_what_the_teacher_needs(less: dict[str, Any], more: dict[str, Any]) -> None:
    def memory(changes: dict[str, Any]) -> float:
        found = _found(**{"audit": {"teacher_seeds": [0]}} | changes)
        return next(stage.memory_gb for stage in found.stages if stage.name.startswith("ask"))

    assert memory(less) < memory(more)


def test_attribution_holds_a_longest_prompt_whatever_the_budget() -> None:
    def cached(budget: int) -> float:
        found = _found(attribution={"tokens_per_forward": budget})
        return next(stage.memory_gb for stage in found.stages if stage.name.startswith("cache"))

    assert cached(256) == cached(2048) < cached(16384)


def test_a_cache_of_several_jobs_takes_as_many_gpus_and_a_part_of_the_hours() -> None:
    one, four = (_found(hardware={"cache_jobs": jobs}) for jobs in (1, 4))
    alone, parted = (next(stage for stage in found.stages if stage.kind == "cache") for found in (one, four))
    assert (alone.jobs, parted.jobs) == (1, 4) and parted.gpus == 1 and parted.memory_gb == alone.memory_gb
    loading = 0.05
    assert 4 * (parted.hours - loading) == pytest.approx(alone.hours - loading)
    for end, hours in enumerate((alone.least_hours - parted.least_hours, alone.hours - parted.hours)):
        assert one.wall_hours(4)[end] - four.wall_hours(4)[end] == pytest.approx(hours) and hours > 0


def test_trials_on_one_gpu_take_one_each_and_its_memory() -> None:
    whole, alone = (
        [stage for stage in _found(hardware={"trials_on_one_gpu": one}).stages if stage.kind == "tuning"]
        for one in (False, True)
    )
    assert {stage.gpus for stage in whole} == {4} and {stage.gpus for stage in alone} == {1}
    for sharded, trial in zip(whole, alone, strict=True):
        assert trial.memory_gb > sharded.memory_gb and trial.hours > 2 * sharded.hours
        assert trial.host_gb < sharded.host_gb


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({}, {"hardware": {"checkpoint_activations": True}}),
        ({}, {"train": {"kl_beta": 0.01}}),
        ({}, {"train": {"steps": 120}}),
        ({}, {"train": {"groups_per_step": 128}}),
        ({}, {"attribution": {"n_steps": 16}}),
        # Prompts are shared by a group's calls, of gradients where weights are not sharded too.
        ({}, {"attribution": {"magnitudes": True}}),
        (
            {"attribution": {"magnitudes": True}, "hardware": {"strategy": "zero2"}},
            {"attribution": {"magnitudes": True}},
        ),
        ({}, {"hardware": {"tflops": 50}}),
        ({}, {"hardware": {"bandwidth_tb": 0.5}}),
        ({}, {"seeds": [0, 1, 2, 3]}),
        ({}, {"teacher": {"n_steps": 32}}),
        ({}, {"teacher": {"enumerated": "all"}}),
        ({}, {"tuning": {"factors": [0.25, 1.0, 2.0, 4.0]}}),
        ({"evaluation": {"image_help": False}}, {}),
        ({"test_sets": ["charxiv"]}, {}),
    ],
)
def test_what_takes_less_time(less: dict[str, Any], more: dict[str, Any]) -> None:
    assert _found(**less).gpu_hours < _found(**more).gpu_hours


def test_every_number_is_finite_and_every_job_is_there() -> None:
    first = {"steps": 10, "rollouts": "vllm_colocate"}
    found = _found(seeds=[0, 1, 2], student={"first_stage": first})
    for stage in found.stages:
        assert stage.jobs > 0 and stage.gpus in (0, 1, 4), stage
        assert 0 <= stage.memory_gb < 1000 and 0 < stage.least_hours <= stage.hours < 1000, stage
        assert 8 < stage.host_gb < 1000, stage
    jobs = [(stage.name, stage.jobs) for stage in found.stages]
    assert jobs == [
        ("copy the models", 2),
        ("train the teacher", 3),
        ("train the student's first stage", 1),
        ("sample the student", 1),
        ("cache the teacher's attribution", 1),
        ("ask whether it is informative", 1),
        ("choose weights", 1),  # iapo, with attribution
        ("choose weights", 1),  # torl
        ("choose weights", 1),  # trm, with the teacher as its verifier
        ("train methods", 6),
        ("train methods with a verifier", 3),
        ("train methods with attribution", 3),
        ("evaluate the student", 2 + 12),
        ("evaluate the teacher", 2),
    ]
    assert math.isfinite(found.disk_gb)


def test_more_gpus_take_less_time_and_fewer_than_a_job_needs_are_refused() -> None:
    found = _found()
    for end in (0, 1):
        assert found.wall_hours(4)[end] > found.wall_hours(8)[end] > found.wall_hours(64)[end]
    assert found.wall_hours(4)[1] >= found.gpu_hours / 4
    with pytest.raises(ValueError, match="found 2 GPUs; the largest job needs 4"):
        found.wall_hours(2)


def test_disk_follows_what_is_saved() -> None:
    one, two = _found(seeds=[0]).disk_gb, _found(seeds=[0, 1]).disk_gb
    # Four methods more: a policy each of 4 bytes a weight; checkpoints are not kept.
    assert two - one == pytest.approx(4 * 3.7546 * 4, rel=1e-3)
    # Two checkpoints of the teacher, of 12 bytes a weight, but of the adapters alone.
    adapters = _found(hardware={"strategy": "ddp", "lora_rank": 64}).disk_gb
    assert _found().disk_gb - adapters == pytest.approx(2 * 12 * 8.29, rel=0.05)


def test_the_worked_example_of_the_documentation() -> None:
    train = {"kl_beta": 0.01, "steps": 50}
    config = _config(train=train, hardware={"checkpoint_activations": True, "vllm_memory": 0.3})
    pretrained = config.student.model.pretrained
    assert pretrained is not None
    size, typical = model_size(SMALL, HubConfig()), typical_lengths(pretrained, 1024)
    longest, rates = longest_lengths(pretrained, 1024), Rates(tflops=400, bandwidth_tb=2)
    memory = training_memory(size, config.hardware, config.train, longest)
    step = step_seconds(size, config.hardware, rates, config.train, typical)
    assert memory == pytest.approx(44, abs=0.5) and step == pytest.approx(40 + 3 + 5, abs=1)
    attributing = step_seconds(size, config.hardware, rates, config.train, typical, AttributionConfig(n_steps=8))
    assert attributing - step == pytest.approx(18, abs=0.5)
    host = host_memory(size, config.hardware, config.train, longest)
    # Four processes load policy and reference; 8 GB each; pixels of 512 rollouts.
    assert host == pytest.approx(4 * 2 * 4 * 3.755 + 4 * 8 + 512 * 42792 * 4704 / 1e9, rel=0.01)


def test_adapters_leave_the_vision_tower_out() -> None:
    size, settings, longest = model_size(SMALL, HubConfig()), _config().train, Lengths(1000, 64, 1128)
    held = [HardwareConfig(lora_rank=8, rollouts_per_forward=count) for count in (1, 2)]
    one, two = (training_memory(size, hardware, settings, longest) for hardware in held)
    text = saved_activations(size, "mixed", longest.sequence) / 1e9
    pixels = longest.patches * 4704 / 1e9
    assert two - one == pytest.approx(1.1 * (text + pixels))


def test_frozen_weights_are_held_in_the_precision_of_models_that_only_run() -> None:
    size, adapters = model_size(SMALL, HubConfig()), HardwareConfig(lora_rank=8)
    whole, half = (
        training_states(size, replace(adapters, precision=precision), reference=True)
        for precision in ("float32", "bfloat16")
    )
    assert whole - half == 2 * size.parameters


def test_hours_run_from_the_peak_to_public_runs_unless_a_card_was_measured() -> None:
    small, large = model_size(SMALL, HubConfig()), model_size(LARGE, HubConfig())
    assert sustained(small, HardwareConfig()) == (Rates(100, 1), Rates(400, 2))
    assert sustained(large, HardwareConfig()) == (Rates(170, 1), Rates(400, 2))
    assert sustained(small, HardwareConfig(tflops=90, bandwidth_tb=1.5)) == (Rates(90, 1.5),) * 2
    least, likely = _found().wall_hours(4)
    assert 1.5 * least < likely < 5 * least
    assert _found(hardware={"tflops": 90, "bandwidth_tb": 1.5}).wall_hours(4)[0] == pytest.approx(
        _found(hardware={"tflops": 90, "bandwidth_tb": 1.5}).wall_hours(4)[1]
    )


@pytest.mark.parametrize(("source", "tokens_a_second", "seconds"), [(SMALL, 1800, 120), (LARGE, 1600, 145)])
def test_the_careful_end_is_what_public_runs_took(
    source: RepositoryConfig, tokens_a_second: float, seconds: float
) -> None:
    """EasyR1 v0.3.2, assets/baselines.md and examples/config.yaml: 512 × 5 rollouts of Geometry3k on 8 H100, its
    tokens a second and GPU, and its seconds a step. Small images are enlarged to 262,144 pixels."""
    size = model_size(source, HubConfig())
    rates, _ = sustained(size, HardwareConfig())
    tokens, image = round(tokens_a_second * 8 * seconds / 2560), 262144 // 784
    turn = tokens - image - 130
    # One figure and one turn, where ours have two of each.
    prompts = Lengths(image, turn, turn, text=130)
    generating = generation_seconds(size, rates, 2560 / 8, prompts, 1, by_vllm=True, alike=5)
    # Update with recomputed activations, old and reference probabilities.
    passes = 6 + 2 + 2 + 2
    arithmetic = 2560 * passes * (size.language * tokens + size.vision * prompts.patches / 2)
    found = generating + arithmetic / (8 * rates.tflops * 1e12)
    assert found == pytest.approx(seconds, rel=0.03)


def test_a_teacher_that_is_not_trained_has_no_job() -> None:
    kinds = {stage.kind for stage in _found(teacher={"trained": False}).stages}
    assert "teacher" not in kinds and "cache" in kinds


def test_jobs_that_train_nothing_hold_the_figures_of_their_prompts_in_the_machine_s_memory() -> None:
    def host(batch_size: int) -> float:
        stages = _found(evaluation={"batch_size": batch_size, "engine": "vllm"}).stages
        return next(stage.host_gb for stage in stages if stage.name == "evaluate the student")

    # Two figures of 4,194,304 pixels each.
    assert host(256) - host(56) == pytest.approx(200 * 2 * 4 * (4194304 // 784) * 4704 / 1e9)


def test_lengths() -> None:
    pretrained = _config().student.model.pretrained
    assert pretrained is not None
    longest = longest_lengths(pretrained, 1024)
    assert longest == Lengths(image=4194304 // 784, turn=1024, completion=2 * 1024 + 4194304 // 784)
    assert longest_lengths(pretrained, 1024, 4000).completion == 4000
    assert typical_lengths(replace(pretrained, max_pixels=784 * 300, min_pixels=784), 64) == Lengths(
        300, 64, 428, text=900
    )


def test_questions_and_candidates() -> None:
    config = _config(test_sets=["h_bar", "vwtq"])
    train, dev, test = questions(config)
    assert sum(train) + sum(dev) == pytest.approx(4722 + 9622 + 0.7 * 1250)
    assert sum(dev) / sum(train) == pytest.approx(0.05 / 0.95)
    assert test == [444, pytest.approx(225)]
    assert candidates(config) == 1 + 4 + 6 + 8


def test_the_text_says_what_is_needed() -> None:
    found = _found()
    text = estimate_text(found)
    first = text.splitlines()[0]
    assert first.startswith(
        f"needs about {found.memory_gb:.0f} GB on each of 4 GPUs, about {hours_text(*found.wall_hours(4))} h"
    )
    assert f"{found.disk_gb:.0f} GB of disk" in first and "docs/estimate.md" in text
    assert all(stage.name in text for stage in found.stages)
    assert "on each of 8 GPUs" in estimate_text(found, 8)
