"""The command line: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokengym.agents import Policy
from tokengym.envs import ByteTokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from tokengym.cli import main

ROWS = [{"question": f"{i}+1=?", "answer": str(i + 1)} for i in range(30)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a model, datasets, a run and a folder that is neither."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENGYM_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = ByteTokenizer()
    config = LlamaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=512, **sizes)
    Policy(LlamaForCausalLM(config), tokenizer, "small").save("small")
    write("rows.jsonl", *ROWS)
    write("empty.jsonl")
    write("torn.jsonl", *ROWS, {"frage": "1+1=?", "answer": "2"})
    write("long.jsonl", *({**row, "question": row["question"] * 300} for row in ROWS))
    for folder in ("other", "runs/first"):
        Path(folder).mkdir(parents=True)
    Path("runs/first/agent.json").write_text(json.dumps({"agent": "DAPO"}))
    return tmp_path


def write(file: str, *rows: dict[str, str]) -> None:
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("trian grpo", "unknown command 'trian' (did you mean train?)"),
        ("train", "which agent?"),
        ("train grp", "unknown agent 'grp' (did you mean grpo?)"),
        ("train grpo --group-sze 4", "unknown option --group-sze (did you mean --group-size?)"),
        ("train grpo --datset rows.jsonl", "unknown option --datset (did you mean --dataset?)"),
        ("train grpo --group-size four", "--group-size: invalid literal for int() with base 10: 'four'"),
        ("train grpo --group-size", "Missing value for argument '--group-size'"),
        (
            "train grpo --dtype float16",
            "invalid choice 'float16' for argument '--dtype'. Expected one of ('float32', 'bf",
        ),
        ("train grpo --group-size 1", "group_size is at least 2, not 1"),
        ("train grpo --eval-episodes -1", "--eval-episodes is at least 0, not -1"),
        ("train grpo --device cuda:77", "the device 'cuda:77' cannot be used here"),
        ("train grpo --env MathVerfy-v0", "no environment 'MathVerfy-v0' is registered; did you mean 'MathVerify-v0'?"),
        ("train grpo --env CartPole-v1", "agents learn in a TextEnv or a TokenEnv, not in CartPoleEnv"),
        ("train grpo --env-options difficulty", "--env-options takes NAME=VALUE"),
        ("train grpo --model ./smal", "no model folder './smal'"),
        ("train grpo --model other", "no model 'other': no folder that has one"),
        ("train grpo --dataset empty.jsonl", "empty.jsonl has no rows"),
        ("train grpo --dataset torn.jsonl", "torn.jsonl:31: no column 'question' among 'frage', 'answer'"),
        ("train grpo --dataset long.jsonl", "raise max_tokens or leave such rows out (long.jsonl:"),
        ("train grpo --dataset row.jsonl", "there is no file row.jsonl; similar names there: rows.jsonl"),
        ("train grpo --run-dir rows.jsonl", "the output folder cannot be written"),
        ("train grpo --json nowhere/summary.json", "the file 'nowhere/summary.json' cannot be written"),
        ("train grpo --json other", "--json takes a file, and 'other' is a folder"),
        ("train grpo --resume other", "other holds no agent"),
        ("train grpo --resume runs/first", "runs/first holds a DAPO agent, not GRPO"),
        ("train grpo --resume runs/first --steps 3", "--resume goes on with the run's own options; leave --steps out"),
        ("eval", "Missing from tokengym eval"),
        ("eval other", "other holds neither a run (agent.json) nor a model (config.json)"),
        ("eval runs/frist", "there is no run runs/frist (did you mean runs/first?)"),
        ("eval small --datset rows.jsonl", "unknown option --datset (did you mean --dataset?)"),
        ("eval small --json nowhere/summary.json", "the file 'nowhere/summary.json' cannot be written"),
        ("eval small --episodes 0", "episodes and samples are at least 1"),
        ("agents all", "tokengym agents takes no options, but got all"),
    ],
)
def test_bad_input_is_one_line(command: str, told: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("tokengym: ")
    assert told in line
    assert not (here / "cache").exists(), "it was refused only after the warm start"


def test_a_run_and_its_summary(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "train grpo --model small --dataset rows.jsonl --steps 2 --prompts-per-step 2 --group-size 2 --max-new-tokens 4"
    )
    main([*command.split(), "--device", "cpu", "--eval-episodes", "3", "--run-dir", "run", "--json", "summary.json"])
    printed = capsys.readouterr().out
    assert "before training: accuracy 0.000 on 3 held-out problems\n" in printed
    assert "after training:  accuracy 0.000 on 3 held-out problems\n" in printed
    summary = json.loads((here / "summary.json").read_text())
    assert set(summary) == {
        *("accuracy_before", "accuracy_after", "steps", "seconds", "sampled_tokens", "tokens_per_second", "run_dir")
    }
    assert summary["accuracy_before"] == summary["accuracy_after"] == 0.0
    assert (summary["steps"], summary["run_dir"]) == (2, "run")
    assert 2 * 2 * 2 <= summary["sampled_tokens"] <= 2 * 2 * 2 * 4
    assert summary["seconds"] > 0
    assert summary["tokens_per_second"] > 0

    main(["eval", "run", "--episodes", "3", "--samples", "2", "--json", "evaluation.json"])
    assert "3 problems, 2 samples each" in capsys.readouterr().out
    assert set(json.loads((here / "evaluation.json").read_text())["pass_at"]) == {"1", "2"}


def test_a_run_is_evaluated_on_what_it_was_trained_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        "train grpo --model small --env Countdown-v0 --steps 1 --prompts-per-step 2 --group-size 2 --max-new-tokens 4"
    )
    main([*command.split(), "--device", "cpu", "--eval-episodes", "0", "--run-dir", "run"])
    capsys.readouterr()
    main(["eval", "run", "--episodes", "2"])
    assert "Evaluating Countdown-v0" in capsys.readouterr().out
    main(["eval", "run", "--episodes", "2", "--env", "MathVerify-v0"])
    assert "Evaluating MathVerify-v0" in capsys.readouterr().out


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train grpo", "eval", "compare", "view"):
        with pytest.raises(SystemExit) as stopped:
            main([*command.split(), "--help"])
        assert not stopped.value.code
        printed = capsys.readouterr().out
        assert f"usage: tokengym {command} " in printed
        assert "\x1b" not in printed, "colours where there is no terminal"
        if command == "train grpo":
            for option in ("--model", "--dataset", "--env-options", "--resume", "--group-size", "--json", "--stop"):
                assert option in printed
