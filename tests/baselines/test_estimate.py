"""The estimate as a command, and the guide's table, which is the same estimate."""

from pathlib import Path

import pytest

from baselines import METHODS
from baselines.estimate import GUIDE, PAPER, PRESETS, guide, main
from iapo.jobs.estimate import estimate, read_config

CONFIG = """
profile: test
data: {refocus: {source: {repo: a/b, revision: "0000000"}}}
student: {model: {pretrained: {source: {repo: Qwen/Qwen2.5-VL-3B-Instruct, revision: "0000000"}}}}
teacher:
  train: {rollouts: vllm_colocate}
  model: {pretrained: {source: {repo: Qwen/Qwen2.5-VL-7B-Instruct, revision: "0000000"}}}
train: {rollouts: vllm_colocate}
hardware: {processes: 2, precision: bfloat16}
"""


def test_the_command_lays_files_over_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, overlay = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(CONFIG)
    overlay.write_text("hardware: {strategy: fsdp2}\nseeds: [0]\n")
    assert main(["--configfile", str(base)]) == 0
    assert main(["--configfile", str(base), str(overlay), "--gpus", "6"]) == 0
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("needs"))
    assert "on each of 2 GPUs" in first and "on each of 6 GPUs" in second
    gigabytes = [int(line.split()[2]) for line in (first, second)]
    assert gigabytes[1] < gigabytes[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CONFIG.replace("VL-3B", "VL-72B"), "Qwen/Qwen2.5-VL-72B-Instruct: found no sizes of it"),
        ("profile: test\nhardwear: {}\n", "did you mean 'hardware'"),
    ],
)
def test_no_estimate_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert main(["--configfile", str(path)]) == 1
    assert said in capsys.readouterr().err


def test_tiny_models_need_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("profile: mini\n")
    assert main(["--configfile", str(path)]) == 0
    assert capsys.readouterr().out.startswith("needs no GPU")


@pytest.mark.parametrize("arguments", [[], ["--configfile"], ["--gpus", "2"]])
def test_without_a_config_file_one_line_says_what_to_write(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        "error: found no config file, expected --configfile config/paper.yaml, or more files\n"
    )


def test_the_guide_has_today_s_costs_and_no_other_page_has_any() -> None:
    assert guide(GUIDE.read_text()) == GUIDE.read_text()
    for page in (GUIDE.parents[1] / "README.md", *GUIDE.parent.glob("*.md")):
        text = page.read_text().partition("<!-- costs")[0] if page == GUIDE else page.read_text()
        assert "GB on each of" not in text and " TB of disk" not in text, page


@pytest.mark.parametrize(
    ("presets", "memory_gb", "hours"),
    [
        ((), 80, 130),
        (("one_gpu",), 80, 24),
        (("one_gpu", "small_gpu"), 24, 12),
        (("vtool_r1_v1",), 80, 1200),
        (("vtool_r1_v2",), 80, 30),
    ],
)
def test_every_preset_fits_what_it_is_for(presets: tuple[str, ...], memory_gb: float, hours: float) -> None:
    found = estimate(read_config([PAPER, *(PRESETS / f"{name}.yaml" for name in presets)]), METHODS)
    assert found.memory_gb <= memory_gb and found.wall_hours(found.gpus)[1] <= hours


def test_a_trial_of_all_weights_does_not_fit_one_gpu_of_80_gb_and_one_of_adapters_does(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    needed = []
    for more in ("", ", lora_rank: 64, strategy: ddp"):
        overlay.write_text(f"hardware: {{trials_on_one_gpu: true{more}}}")
        stages = estimate(read_config([PAPER, overlay]), METHODS).stages
        needed += [max(stage.memory_gb for stage in stages if stage.kind == "tuning")]
    assert needed[0] > 80 > needed[1]
