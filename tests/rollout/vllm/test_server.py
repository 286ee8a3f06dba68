"""vLLM behind a server: what TRL's client sends over HTTP. See conftest.py for the engine behind it."""

import base64
import io
import json
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from torch import Tensor
from trl.generation import vllm_client, vllm_generation

from iapo.models.processor import SUPPRESSED_TOKENS
from iapo.training.guards import RolloutFault


@dataclass
class Server:
    """The engine behind the addresses of ``vllm serve`` that TRL's client calls."""

    engine: Any
    weights: "queue.Queue[tuple[str, Tensor]]" = field(default_factory=queue.Queue)
    """What NCCL would carry."""
    calls: list[str] = field(default_factory=list)

    def get(self, path: str) -> dict[str, Any]:
        return {
            "/health": {},
            "/v1/models": {"data": [{"id": "tiny"}]},
            "/get_world_size": {"world_size": 1},
            "/server_info": {
                "vllm_config": {
                    "weight_transfer_config": {"backend": "nccl"},
                    "model_config": {"logprobs_mode": "processed_logprobs"},
                }
            },
        }[path]

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.calls.append(path)
        handle: Callable[[dict[str, Any]], dict[str, Any]] = {
            "/v1/chat/completions/render": self._render,
            "/inference/v1/generate": self._generate,
            "/update_weights": self._update,
        }.get(path, lambda body: {"success": True})
        return handle(body)

    def _render(self, body: dict[str, Any]) -> dict[str, Any]:
        parts = body["messages"][0]["content"]
        data = [part["image_url"]["url"].partition("base64,")[2] for part in parts]
        places = [{"offset": 0, "length": length} for length in self.engine.tokens([_decoded(each) for each in data])]
        hashes = [str(hash(each)) for each in data]
        images = {"mm_hashes": hashes, "mm_placeholders": places, "kwargs_data": data}
        return {"features": {name: {"image": values} for name, values in images.items()}}

    def _generate(self, body: dict[str, Any]) -> dict[str, Any]:
        ids, sampling = body["token_ids"], body["sampling_params"]
        images = [_decoded(data) for data in body["features"]["kwargs_data"]["image"]]
        # A server that keeps places of its own would put the image's features elsewhere.
        for place, tokens in zip(body["features"]["mm_placeholders"]["image"], self.engine.tokens(images), strict=True):
            found = ids[place["offset"] :][: place["length"]]
            assert found == [self.engine.image] * tokens, (found, tokens)
        requests = [self.engine.answer(ids, images, sampling) for _ in range(sampling["n"])]
        return {"choices": [{"token_ids": r.answer, "logprobs": {"content": _content(r)}} for r in requests]}

    def _update(self, body: dict[str, Any]) -> dict[str, Any]:
        info = body["update_info"]
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            sent, weight = self.weights.get(timeout=10)
            assert (sent, str(weight.dtype), list(weight.shape)) == (name, f"torch.{dtype}", shape)
            self.engine.load(name, weight)
        return {}


def _decoded(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def _content(request: Any) -> list[dict[str, Any]]:
    pairs = zip(request.answer, request.logprobs, strict=True)
    return [{"token": f"token_id:{token}", "logprob": value, "top_logprobs": []} for token, value in pairs]


@pytest.fixture
def server(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, str]]:
    """It and its address; TRL's client is as it is but for NCCL, which needs GPUs."""
    state = Server(engine)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(lambda: state.get(self.path.partition("?")[0]))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._reply(lambda: state.post(self.path, json.loads(body or "{}")))

        def _reply(self, answer: Callable[[], dict[str, Any]]) -> None:
            try:
                status, body = 200, json.dumps(answer())
            except Exception as error:
                # TRL's client raises with this text; without a status it would ask five more times.
                status, body = 400, repr(error)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    def broadcast(iterator: Any, **_: Any) -> None:
        for pair in iterator:
            state.weights.put(pair)

    connect = vllm_client.VLLMClient.init_communicator
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda self, device: connect(self, "cuda"))
    group = SimpleNamespace(group=SimpleNamespace())
    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda: True)
    for name, stand_in in {
        "get_ip": lambda: "127.0.0.1",
        "open_trainer_endpoint": lambda info: group,
        "packed_nccl_broadcast_producer": broadcast,
        "_HAS_STATEFUL_TRAINER_ENGINE": True,
        "_HAS_RESET_PREFIX_CACHE_SUCCESS": True,
    }.items():
        monkeypatch.setattr(vllm_client, name, stand_in, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield state, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def arguments(address: str) -> dict[str, Any]:
    sampling = {"bad_words": list(SUPPRESSED_TOKENS)}
    return {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": address, "generation_kwargs": sampling}


def test_a_server_gets_the_loss_s_own_ids(server: tuple[Server, str], engine: Any, make: Any, check_steps: Any) -> None:
    state, address = server
    trained = make(**arguments(address))
    trained.train()
    check_steps(trained)
    assert state.calls.count("/update_weights") == 2 and state.weights.empty()
    assert state.calls.count("/reset_encoder_cache") == 2, "image features outlived a weight update"
    assert all(r.sampling["bad_words"] == list(SUPPRESSED_TOKENS) for r in engine.requests)
    assert {r.sampling["n"] for r in engine.requests} == {4, 1}


def test_a_server_with_another_image_size_stops_the_run(server: tuple[Server, str], engine: Any, make: Any) -> None:
    engine.processor.image_processor.size = {"shortest_edge": 784, "longest_edge": 784 * 4}
    with pytest.raises(RolloutFault, match=r"found the vLLM server making .* the loss has"):
        make(**arguments(server[1])).train()
