"""`python -m benchmarks.oracle` on the file of expected numbers, and on files that it must not pass."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
ORACLE = ROOT.parent / "shared" / "oracles" / "policy_gradient.json"


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.oracle")


def test_the_expected_numbers(tmp_path: Path) -> None:
    if not ORACLE.is_file():
        pytest.skip(f"the oracle {ORACLE} is not on this machine")
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.oracle", str(ORACLE), "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    report = json.loads(out.read_text())
    content = json.loads(ORACLE.read_text())
    names = {f"{section}/{name}" for section in ("advantages", "policy_losses", "kl") for name in content[section]}
    assert set(report["entries"]) == names
    assert report["worst"] == max(report["entries"].values()) <= 1e-5
    assert report["failed"] == {}
    assert done.returncode == 0
    assert "dr_grpo" in done.stdout


def test_another_file(oracle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another shape, with other parameters, numbers made by hand, and entries that cannot be held."""
    r = math.sqrt(0.5)
    z = 1 / (r + 0.5)
    logs = [[0.0, math.log(1.5)], [math.log(0.5), 0.0]]
    content = {
        "note": "two completions of one prompt",
        "seed": 3,
        "inputs": {
            "new": logs,
            "old": [[0.0, 0.0], [0.0, 0.0]],
            "ref": logs,
            "values": [[0.5, 7.0], [0.0, 1.0]],
            "token_rewards": [[1.0, 7.0], [0.0, 2.0]],
            "mask": [[1, 1], [1, 1]],
            "other_mask": [[1, 0], [1, 1]],
            "reward": [1, 0],
            "group": [9, 9],
        },
        "advantages": {
            # δ: ½ alone; 2 − 1 = 1, and 0 + 1·½ − 0 = ½.
            "gae(gamma=.5,lam=1,mask=other_mask)": {
                "advantages": [[0.5, math.pi], [1.0, 1.0]],
                "returns": [[1.0, math.pi], [1.0, 2.0]],
            },
            "grpo(std unbiased, eps .5)": [[z / 2, z / 2], [-z / 2, -z / 2]],
            "dr_grpo": [0.5, -0.5],
            "rloo": [[1.0, 1.0], [-1.0, -1.0001]],
            "grpo(std biased)": [1.0, -1.0],
            "remax": [1.0, 0.0],
            "gigpo": [0.0, 0.0],
        },
        "advantages_used_in_losses": "dr_grpo",
        "policy_losses": {
            "ppo_clip(.5,.25)/token-mean/other_mask": (-0.5 + 0.25 + 0.5) / 3,
            "ppo_clip(.25,.25)/seq-mean-token-sum-norm": (-0.5 - 0.625 + 0.375 + 0.5) / 4,
            "ppo_clip(.1)/token-mean": 0.0,
            "ppo_clip(.1,.1)/batch-mean": 0.0,
            "ppo_clip(.1,.1,beta=2)": 0.0,
            "cispo(ratio clipped to [.75,1.25])/token-mean": (-1.25 * 0.5 * logs[0][1] + 0.75 * 0.5 * logs[1][0]) / 4,
        },
        "kl": {"k3": [[0.0, 0.0], [0.0, 0.0]], "k1": [0.0, 0.0], "k2": "nothing"},
        "preferences": {"dpo(beta=.1)": 0.598139},
    }
    file = tmp_path / "file.json"
    file.write_text(json.dumps(content))
    assert oracle.main(file, tmp_path / "out.json") == 1
    report = json.loads((tmp_path / "out.json").read_text())
    entries, failed = report["entries"], report["failed"]
    assert set(failed) == {
        "advantages/grpo(std biased)",
        "advantages/remax",
        "advantages/gigpo",
        "policy_losses/ppo_clip(.1)/token-mean",
        "policy_losses/ppo_clip(.1,.1)/batch-mean",
        "policy_losses/ppo_clip(.1,.1,beta=2)",
        "kl/k1",
        "kl/k2",
        "preferences/dpo(beta=.1)",
    }
    assert {name for name, error in entries.items() if error is None} == set(failed)
    assert "greedy_reward" in failed["advantages/remax"]
    assert "gigpo" in capsys.readouterr().out
    assert entries.pop("advantages/rloo") == pytest.approx(1e-4, rel=1e-3)
    assert report["worst"] == pytest.approx(1e-4, rel=1e-3)
    assert max(error for error in entries.values() if error is not None) < 1e-6


def test_what_is_no_such_file(oracle: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["[]", "{}", "no json", '{"inputs": {"mask": "x"}, "kl": {"k1": 0}}', '{"inputs": {}}']
    files = [tmp_path / "absent.json", tmp_path, *(tmp_path / f"file{i}.json" for i in range(len(texts)))]
    for file, text in zip(files[2:], texts):
        file.write_text(text)
    assert [oracle.main(file) for file in files] == [2] * len(files)
    assert [line.split(" ")[0] for line in capsys.readouterr().err.splitlines()] == [str(file) for file in files]
