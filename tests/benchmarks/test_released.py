"""Released weights as an lmms-eval model, and the download of their prompt."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import agent
from benchmarks.agent import FigureAgent, response_text
from benchmarks.rehearsal.released import PROMPT
from benchmarks.released import ReleasedAgent
from benchmarks.released_prompt import PromptError, fetch_prompt
from iapo.artifacts.code_digest import ROOT
from iapo.config.sources import PromptConfig
from iapo.models.loading import save_model
from iapo.rollout.legacy_turns import PLACEHOLDER
from iapo.types import Example

TEXT = f"{PLACEHOLDER} tools"
SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory, tiny: tuple[Any, Any]) -> Path:
    """Weights with sampling defaults of their own."""
    folder = tmp_path_factory.mktemp("released") / "model"
    save_model(*tiny, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [tiny[1].tokenizer.eos_token_id], "repetition_penalty": 1.3}))
    return folder


def test_weights_are_loaded_with_their_bounds_and_without_a_penalty(downloaded: Path) -> None:
    loaded = ReleasedAgent(str(downloaded), template=TEXT, min_pixels=784, max_pixels=7840)
    assert dict(loaded.processor.image_processor.size) == {"shortest_edge": 784, "longest_edge": 7840}
    assert loaded.model.generation_config.repetition_penalty in (None, 1.0)
    assert loaded.model.generation_config.eos_token_id


def test_every_question_gets_a_record_s_answer(downloaded: Path, test_examples: list[Example]) -> None:
    loaded = ReleasedAgent(str(downloaded), template=TEXT, min_pixels=784, max_pixels=7840, turn_tokens=4)
    rollouts = loaded._answer(test_examples[::60])
    assert len(rollouts) == len(test_examples[::60]) and all(rollout.text_off is not None for rollout in rollouts)
    fields = json.loads(response_text(rollouts[0]))
    assert fields["called"] is False and fields["call"] is None and fields["turns"] == [rollouts[0].texts[0]]


def test_a_template_without_a_place_for_the_request_is_refused_before_loading(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected once"):
        ReleasedAgent(str(tmp_path / "absent"), template="no place", min_pixels=784, max_pixels=7840)


@pytest.mark.parametrize("batch_size", ["auto", "auto:4", "", "0", "-1", "1.5", "²", None])
def test_a_batch_size_that_is_no_number_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tiny: tuple[Any, Any], batch_size: Any
) -> None:
    monkeypatch.setattr(agent, "load_writer", lambda *_, **__: tiny)
    with pytest.raises(SystemExit) as ended:
        FigureAgent("model", batch_size=batch_size)
    assert "expected a number" in str(ended.value) and "\n" not in str(ended.value)
    assert FigureAgent("model", batch_size="16").batch_size_per_gpu == 16


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Serve the prompt, or 404."""
        content = TEXT.encode() if self.path == "/prompt" else b"gone"
        self.send_response(200 if self.path == "/prompt" else 404)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_prompt_is_had_from_a_server_or_a_path(tmp_path: Path, server: str) -> None:
    fetch_prompt(PromptConfig(f"{server}/prompt", SHA256), tmp_path / "a/first.txt")
    fetch_prompt(PromptConfig(str(tmp_path / "a/first.txt"), SHA256), tmp_path / "second.txt")
    assert (tmp_path / "second.txt").read_text() == TEXT


@pytest.mark.parametrize(
    ("address", "sha256", "says"),
    [
        ("{server}/prompt", "0" * 64, f"with the sha256 {SHA256}, expected 0000"),
        ("{server}/moved", SHA256, "found status 404"),
        ("{server}/prompt/", SHA256, "found status 404"),
        ("http://user:secret@127.0.0.1:1/prompt", SHA256, "cannot be downloaded"),
        ("absent.txt", SHA256, "found no prompt at absent.txt"),
    ],
)
def test_another_text_or_none_is_one_line(tmp_path: Path, server: str, address: str, sha256: str, says: str) -> None:
    with pytest.raises(PromptError) as error:
        fetch_prompt(PromptConfig(address.format(server=server), sha256), tmp_path / "prompt.txt")
    assert says in str(error.value) and "\n" not in str(error.value) and "secret" not in str(error.value)
    assert not (tmp_path / "prompt.txt").exists()


def test_the_rehearsal_s_prompt_is_the_one_that_its_configuration_names() -> None:
    overlay = yaml.safe_load((ROOT / "config/presets/rehearsal.yaml").read_text())
    found = {row["prompt"]["sha256"] for row in overlay["released"].values()}
    assert found == {hashlib.sha256(PROMPT.encode()).hexdigest()}
