"""Checkpoints are written whole or not at all. This file is also the program that is killed while it writes them."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokengym.agents import Policy
from tokengym.agents.learner import (
    Batch,
    Learner,
    checkpoints,
    load_checkpoint,
    negative_log_likelihood,
    save_checkpoint,
)

MakePolicy = Callable[..., Policy]


def a_batch(seed: int = 0) -> Batch:
    ids = torch.randint(256, (4, 10), generator=torch.Generator().manual_seed(seed)).tolist()
    return Batch.pack(ids, [[0] * 3 + [1] * 7] * 4, [[0.0] * 10] * 4, torch.ones(4), 256)


def step(learner: Learner, seed: int = 0) -> float:
    return learner.update(a_batch(seed), negative_log_likelihood, learning_rate=1e-3)["loss"]


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in policy.trainable().items()}


def test_a_checkpoint_brings_everything_back(make_policy: MakePolicy, tmp_path: Path) -> None:
    policy = make_policy(seed=1)
    learner = Learner(policy)
    for i in range(3):
        step(learner, i)
    torch.manual_seed(7)
    torch.rand(5)
    path = save_checkpoint(tmp_path, 3, policy, learner, {"prompts": {"epoch": 1}}, keep=2)
    drawn = torch.rand(4)
    assert path == tmp_path / "step-00000003"
    assert not list(tmp_path.glob(".*"))

    other = make_policy(seed=2)
    fresh = Learner(other)
    torch.manual_seed(99)
    state = load_checkpoint(path, other, fresh)
    assert state == {"prompts": {"epoch": 1}, "step": 3}
    assert torch.equal(torch.rand(4), drawn)
    assert step(learner, 8) == step(fresh, 8)
    assert step(learner, 9) == step(fresh, 9)
    found = weights(other)
    assert all(torch.equal(found[name], p) for name, p in weights(policy).items())


def test_the_last_few_are_kept(make_policy: MakePolicy, tmp_path: Path) -> None:
    policy = make_policy()
    learner = Learner(policy)
    for n in (1, 2, 5, 30, 100):
        save_checkpoint(tmp_path, n, policy, learner, {}, keep=3)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000005", "step-00000030", "step-00000100"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [p.name for p in checkpoints(tmp_path)]


def test_saving_a_step_again_replaces_it(make_policy: MakePolicy, tmp_path: Path) -> None:
    policy = make_policy()
    learner = Learner(policy)
    save_checkpoint(tmp_path, 1, policy, learner, {"x": 1}, keep=1)
    path = save_checkpoint(tmp_path, 1, policy, learner, {"x": 2}, keep=1)
    assert load_checkpoint(path, policy, learner) == {"x": 2, "step": 1}


def test_what_was_saved_last_is_loaded(make_policy: MakePolicy, tmp_path: Path) -> None:
    """An agent with fewer steps saved to the folder of one with more."""
    policy = make_policy()
    learner = Learner(policy)
    save_checkpoint(tmp_path, 30, policy, learner, {"who": "old"}, keep=2)
    save_checkpoint(tmp_path, 40, policy, learner, {"who": "old"}, keep=2)
    path = save_checkpoint(tmp_path, 5, policy, learner, {"who": "new"}, keep=2)
    assert path.is_dir()
    assert load_checkpoint(checkpoints(tmp_path)[-1], policy, learner)["who"] == "new"


def test_no_checkpoints_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / ".writing-00000001").mkdir()
    (tmp_path / "step-1").mkdir()
    assert checkpoints(tmp_path) == []
    assert checkpoints(tmp_path / "missing") == []


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 3}, {"intermediate_size": 96}, {"kind": "gpt2"}],
    ids=["more layers", "wider", "another family"],
)
def test_another_model_is_refused(make_policy: MakePolicy, tmp_path: Path, changes: dict[str, Any]) -> None:
    policy = make_policy()
    learner = Learner(policy)
    step(learner)
    path = save_checkpoint(tmp_path, 1, policy, learner, {}, keep=1)
    other = make_policy(seed=3, **changes)
    before = weights(other)
    with pytest.raises(ValueError, match="another model"):
        load_checkpoint(path, other, Learner(other))
    assert all(torch.equal(before[name], p) for name, p in weights(other).items()), "refused, but half loaded"


@pytest.mark.parametrize(("saved", "loaded"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_checkpoint_in_another_precision(make_policy: MakePolicy, tmp_path: Path, saved: Any, loaded: Any) -> None:
    """The weights are those of the checkpoint, and stay so when the next step is made."""
    policy = make_policy(seed=1).to(saved, "cpu")
    learner = Learner(policy)
    step(learner)
    path = save_checkpoint(tmp_path, 1, policy, learner, {}, keep=1)
    other = make_policy(seed=2).to(loaded, "cpu")
    resumed = Learner(other)
    load_checkpoint(path, other, resumed)
    for _ in range(2):
        for name, p in weights(other).items():
            torch.testing.assert_close(p.float(), learner.masters[name].detach(), atol=2e-2, rtol=1e-2)
        resumed.update(a_batch(), negative_log_likelihood, learning_rate=1e-6)


def test_an_adapters_checkpoint_holds_the_adapter_only(make_policy: MakePolicy, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    policy = make_policy().with_lora(4, 32.0, seed=0)
    learner = Learner(policy)
    step(learner)
    path = save_checkpoint(tmp_path, 1, policy, learner, {}, keep=1)
    other = make_policy().with_lora(4, 32.0, seed=1)
    load_checkpoint(path, other, Learner(other))
    assert all(torch.equal(weights(other)[name], p) for name, p in weights(policy).items())
    with pytest.raises(ValueError, match="another model"):
        load_checkpoint(path, make_policy(), Learner(make_policy()))


def test_a_kill_leaves_only_complete_checkpoints(make_policy: MakePolicy, tmp_path: Path) -> None:
    draw = random.Random(0)
    command = [sys.executable, __file__, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for round_ in range(12):
            program.stdin.write("write\n")
            program.stdin.flush()
            writer, already = (int(word) for word in program.stdout.readline().split())
            wait_for(lambda: checkpoints(tmp_path)[-1:] > [tmp_path / f"step-{already + 2:08d}"])  # noqa: B023
            # Every other time right after a rename, when an old checkpoint is deleted.
            time.sleep(draw.uniform(0.0, 0.1) if round_ % 2 else draw.uniform(0.0, 0.001))
            os.kill(writer, signal.SIGKILL)
            assert program.stdout.readline() == "dead\n"
            found = checkpoints(tmp_path)
            assert found
            for path in found:
                policy = make_policy()
                state = load_checkpoint(path, policy, Learner(policy))
                assert path.name == f"step-{state['step']:08d}"
                # The writer puts its step into the weights: those of one file belong to the numbers of the other.
                assert all(torch.equal(p, torch.full_like(p, state["step"])) for p in weights(policy).values())
        program.stdin.close()
        assert program.wait() == 0


def test_what_a_kill_left_is_cleared_away(make_policy: MakePolicy, tmp_path: Path) -> None:
    policy = make_policy()
    torn = tmp_path / ".writing-00000003"
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"torn")
    save_checkpoint(tmp_path, 4, policy, Learner(policy), {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004"]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_kill_while_a_step_is_saved_again(make_policy: MakePolicy, tmp_path: Path, replaced: bool) -> None:
    """Between the two renames, and right after them, the folder looks as it is made to look here."""
    policy = make_policy()
    learner = Learner(policy)
    final = save_checkpoint(tmp_path, 1, policy, learner, {"x": "old"}, keep=2)
    os.rename(final, tmp_path / ".replaced-step-00000001")
    if replaced:
        save_checkpoint(tmp_path / "other", 1, policy, learner, {"x": "new"}, keep=2).rename(final)
        (tmp_path / "other").rmdir()
    [found] = checkpoints(tmp_path)
    expected = {"x": "new" if replaced else "old", "step": 1}
    assert load_checkpoint(found, policy, learner) == expected
    save_checkpoint(tmp_path, 2, policy, learner, {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]
    assert load_checkpoint(final, policy, learner) == expected


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.0002)


def write_checkpoints(folder: Path) -> None:
    """For every line of the standard input fork a writer of checkpoints, so that the imports are paid once, and wait
    until it is killed."""
    spec = importlib.util.spec_from_file_location("agents_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    policy = conftest.build_policy()
    learner = Learner(policy)
    parent = os.getpid()
    for _ in sys.stdin:
        last = max((json.loads((p / "state.json").read_text())["step"] for p in checkpoints(folder)), default=0)
        pid = os.fork()
        while pid == 0:
            if os.getppid() != parent:
                os._exit(1)
            last += 1
            with torch.no_grad():
                for p in policy.model.parameters():
                    p.fill_(last)
            save_checkpoint(folder, last, policy, learner, {}, keep=2)
        print(pid, last, flush=True)
        os.waitpid(pid, 0)
        print("dead", flush=True)


if __name__ == "__main__":
    write_checkpoints(Path(sys.argv[1]))
