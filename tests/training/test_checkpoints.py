"""A run goes on from its last whole checkpoint: what is cut short or damaged is named, removed and not resumed."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from iapo.training import checkpoints
from iapo.training.checkpoints import clean, damage_of, last_checkpoint, metrics_file, seal

FILES = ("model.safetensors", "optimizer.pt", "rng_state_0.pth", "rng_state_1.pth", "optimizer_0/__0_0.distcp")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Of a run that was killed after step 5, with whole checkpoints of steps 2 and 4."""
    for step in range(1, 6):
        metrics_file(tmp_path).append({"step": step, "reward": step / 3})
        if step in (2, 4):
            for name in (*FILES, "trainer_state.json"):
                file = tmp_path / f"checkpoints/checkpoint-{step}/{name}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f'{{"{name}": {step}}}')
            (tmp_path / "average").mkdir(exist_ok=True)
            (tmp_path / f"average/{step}.safetensors").write_text(f"mean {step}")
            seal(tmp_path, step)
    return tmp_path


def steps(run_dir: Path) -> list[float]:
    return [row["step"] for row in metrics_file(run_dir).rows()]


def test_a_whole_run_goes_on_from_its_last_checkpoint(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = (run_dir / "metrics.jsonl").read_text().splitlines()
    clean(run_dir)
    clean(run_dir)
    assert last_checkpoint(run_dir) == run_dir / "checkpoints/checkpoint-4"
    assert (run_dir / "metrics.jsonl").read_text().splitlines() == before[:4] and not caplog.text


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink], ids=["cut", "flipped", "missing"])
@pytest.mark.parametrize(
    "name", [*(f"checkpoints/checkpoint-4/{name}" for name in (*FILES, "files.json")), "average/4.safetensors"]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_taken(
    run_dir: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    damage(run_dir / name)
    clean(run_dir)
    assert last_checkpoint(run_dir) == run_dir / "checkpoints/checkpoint-2" and steps(run_dir) == [1, 2]
    assert str(run_dir) in caplog.text and "found" in caplog.text and "goes on from an earlier step" in caplog.text


@pytest.mark.parametrize(("row", "resumed"), [(3, 2), (1, 0)])
@pytest.mark.parametrize("change", ["missing", "garbled", "another"])
def test_metrics_that_lack_a_row_are_those_of_no_checkpoint_behind_it(
    run_dir: Path, row: int, resumed: int, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = run_dir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[row - 1] = {"missing": "", "garbled": "{step}\n", "another": f'{{"step": {row}, "reward": 9.0}}\n'}[change]
    file.write_text("".join(lines))
    clean(run_dir)
    last = last_checkpoint(run_dir)
    assert checkpoints.step_of(last) == resumed and steps(run_dir) == [*range(1, resumed + 1)]
    assert f"{file}: found other rows than checkpoint-4 was written with" in caplog.text


@pytest.mark.parametrize("content", [b"", b"[]", b'{"files": {}}', b'{"files": {"a": {"cytes": 1}}, "metrics": ""}'])
def test_a_damaged_list_is_no_traceback(run_dir: Path, content: bytes) -> None:
    (run_dir / "checkpoints/checkpoint-4/files.json").write_bytes(content)
    clean(run_dir)
    assert last_checkpoint(run_dir) == run_dir / "checkpoints/checkpoint-2"


def test_a_large_file_goes_by_its_size(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_HASHED_BYTES", 0)
    seal(run_dir, 4)
    weights = run_dir / "checkpoints/checkpoint-4/model.safetensors"
    flip(weights)
    assert damage_of(weights.parent) is None
    cut(weights)
    assert "bytes, expected" in str(damage_of(weights.parent))


def test_a_full_disk_loses_no_metrics(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run_dir / "metrics.jsonl").read_bytes()
    write = Path.write_text

    def full(path: Path, text: str) -> int:
        write(path, text[: len(text) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        clean(run_dir)
    monkeypatch.undo()
    assert (run_dir / "metrics.jsonl").read_bytes() == before and not list(run_dir.glob(".*.part"))
    clean(run_dir)
    assert steps(run_dir) == [1, 2, 3, 4]
