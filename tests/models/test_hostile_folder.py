"""A folder of a model that carries code: nothing of it runs."""

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from iapo.models.loading import load_model, save_model


class Call:
    """Unpickles by calling."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.fixture
def folder(tmp_path: Path, tiny: tuple[Any, Any]) -> Path:
    save_model(*tiny, tmp_path / "model")
    return tmp_path / "model"


def test_code_beside_the_weights_is_not_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Own: pass\n"
    for module in ("modeling_own", "processing_own"):
        (folder / f"{module}.py").write_text(code)
    named = {"AutoConfig": "modeling_own.Own", "AutoModel": "modeling_own.Own", "AutoProcessor": "processing_own.Own"}
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        facts = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(facts | {"auto_map": named}))
    # To refuse it is as good.
    with contextlib.suppress(OSError, ValueError):
        load_model(folder)
    assert not marker.exists()


def test_a_call_in_pickled_weights_is_not_made(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "called"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Call(marker)}))
    with pytest.raises(Exception, match=r"(?i)weights_only|safetensors|unpickl|pickle|not.*find|no file"):
        load_model(folder)
    assert not marker.exists()
    # What it guards against:
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert marker.exists()
