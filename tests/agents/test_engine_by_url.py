"""What agents and engines by URL refuse before there is a vLLM to ask; with real vLLM: test_vllm_engine.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tokengym.agents import GRPO, Policy
from tokengym.agents.engines import EngineError, TorchEngine, VLLMServer

from .conftest import build_policy


class Page(BaseHTTPRequestHandler):
    """A server of something else."""

    status, body = 200, b"<html>Welcome</html>"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def page() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>Welcome</html>"), (200, b"[1]"), (200, b"{}"), (400, b"?"), (404, b"")]
)
def test_a_server_of_something_else_is_refused_by_its_url(
    page: str, status: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Page, "status", status)
    monkeypatch.setattr(Page, "body", body)
    policy = build_policy()
    with pytest.raises(EngineError, match=f"no vLLM server answers at {page}"):
        VLLMServer(page, policy.model, policy.tokenizer, max_tokens=64)


@pytest.mark.parametrize("options", [{"engine": "torch"}, {"engine": "vllm", "engine_url": "http://localhost:1"}])
def test_only_vllm_in_the_same_process_sleeps(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="engine_sleeps is for vLLM in the same process"):
        GRPO.Config(engine_sleeps=True, **options)


def test_the_engine_sleeps_while_the_weights_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    Policy.tiny(0, device="cpu").save(tmp_path / "model")
    agent = GRPO(
        tmp_path / "model", run_dir=tmp_path, console=False, prompts_per_step=2, group_size=2, max_new_tokens=4
    )
    assert isinstance(agent.engine, TorchEngine)
    for owner, name in ((agent.engine, "generate"), (agent.engine, "sleep"), (agent.learner, "update")):
        call = getattr(owner, name)

        def noted(*args: Any, call: Any = call, name: str = name, **options: Any) -> Any:
            order.append(name)
            return call(*args, **options)

        monkeypatch.setattr(owner, name, noted)
    agent.learn(1)
    assert list(dict.fromkeys(order)) == ["generate", "sleep", "update"]
