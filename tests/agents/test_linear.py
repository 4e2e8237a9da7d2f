"""Linear layers with reordered weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokengym.agents import Policy
from tokengym.agents.engines import Request, Sampling, TorchEngine, linear
from tokengym.agents.engines.linear import ROWS, WEIGHTS, ReorderedLinears
from torch import nn


def layers(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 300), nn.SiLU(), nn.Linear(300, 260, bias=False)).to(dtype)


@pytest.mark.parametrize("shape", [(1, 256), (16, 256), (1, 33, 256)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_products_are_the_same(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    model = layers(dtype)
    x = torch.randn(shape).to(dtype)
    expected = model(x)
    with ReorderedLinears(model).used(16):
        found = model(x)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@torch.inference_mode()
def test_changed_weights_are_taken_after_forget() -> None:
    model = layers()
    x = torch.randn(16, 256)
    reordered = ReorderedLinears(model)
    with reordered.used(16):
        model(x)
    for p in model.parameters():
        p.mul_(2.0)
    expected = model(x)
    reordered.forget()
    with reordered.used(16):
        torch.testing.assert_close(model(x), expected)


def test_layers_are_as_before_outside() -> None:
    model = layers()
    x = torch.randn(16, 256, requires_grad=True)
    with pytest.raises(ZeroDivisionError), ReorderedLinears(model).used(16):
        raise ZeroDivisionError
    assert all("forward" not in vars(layer) for layer in model)
    model(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_other_numbers_of_rows_and_layers_of_others_are_left_alone() -> None:
    model = layers()
    own: Any = lambda x: x @ model[0].weight.T  # noqa: E731
    vars(model[0])["forward"] = own
    reordered = ReorderedLinears(model)
    for rows in (ROWS.start - 1, ROWS.stop):
        with reordered.used(rows):
            assert "forward" not in vars(model[2])
    with reordered.used(ROWS.start):
        assert vars(model[0])["forward"] is own
        assert "forward" in vars(model[2])
    assert vars(model[0])["forward"] is own


def test_small_layers_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(WEIGHTS // 64, 64), nn.Linear(64, WEIGHTS // 64 - 1))
    with ReorderedLinears(model).used(ROWS.start):
        assert ["forward" in vars(layer) for layer in model] == [True, False]


def test_the_engine_samples_with_them(monkeypatch: pytest.MonkeyPatch, make_policy: Callable[..., Policy]) -> None:
    monkeypatch.setattr(linear, "WEIGHTS", 1)
    own, rows = linear._linear, list[int]()

    def counting(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows.append(x.numel() // x.shape[-1])
        return own(x, weight, bias)

    monkeypatch.setattr(linear, "_linear", counting)
    policy = make_policy()
    engine = TorchEngine(policy.model, policy.tokenizer)
    for _ in range(2):  # the second time with other weights, of which nobody told the engine
        rows.clear()
        [group] = engine.generate([Request([1, 2, 3], range(ROWS.start), 5)], Sampling())
        assert set(rows) >= {ROWS.start}
        for generation in group:
            with torch.no_grad():
                logits = policy.model(torch.tensor([[1, 2, 3, *generation.ids]])).logits[0, 2:-1]
            expected = logits.log_softmax(-1).gather(-1, torch.tensor(generation.ids)[:, None]).squeeze(-1)
            torch.testing.assert_close(torch.tensor(generation.logprobs), expected, atol=1e-4, rtol=0)
        with torch.no_grad():
            for p in policy.model.parameters():
                p.mul_(1.1)
