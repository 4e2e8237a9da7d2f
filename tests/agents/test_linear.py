"""Linear layers with reordered weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokengym.agents.engines.linear import MOST_ROWS, ReorderedLinears
from torch import nn


def layers(dtype: torch.dtype) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 72), nn.SiLU(), nn.Linear(72, 24, bias=False)).to(dtype)


@pytest.mark.parametrize("shape", [(1, 40), (16, 40), (1, 33, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_products_are_the_same(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    model = layers(dtype)
    x = torch.randn(shape).to(dtype)
    expected = model(x)
    with ReorderedLinears(model).used(16):
        found = model(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-5)


@torch.inference_mode()
def test_changed_weights_are_taken_after_forget_and_not_before() -> None:
    model = layers(torch.float32)
    x = torch.randn(4, 40)
    reordered = ReorderedLinears(model)
    before = model(x)
    with reordered.used(4):
        model(x)
    for p in model.parameters():
        p.mul_(2.0)
    after = model(x)
    assert (after - before).abs().max() > 0.1
    with reordered.used(4):
        assert (model(x) - before).abs().max() < (after - before).abs().max()
    reordered.forget()
    with reordered.used(4):
        torch.testing.assert_close(model(x), after)


def test_layers_are_as_before_outside() -> None:
    model = layers(torch.float32)
    x = torch.randn(4, 40, requires_grad=True)
    reordered = ReorderedLinears(model)
    with pytest.raises(ZeroDivisionError), reordered.used(4):
        raise ZeroDivisionError
    assert all("forward" not in vars(layer) for layer in model)
    model(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_many_rows_and_layers_of_others_are_left_alone() -> None:
    model = layers(torch.float32)
    own: Any = lambda x: x @ model[0].weight.T  # noqa: E731
    vars(model[0])["forward"] = own
    reordered = ReorderedLinears(model)
    with reordered.used(MOST_ROWS + 1):
        assert "forward" not in vars(model[2])
    with reordered.used(MOST_ROWS):
        assert vars(model[0])["forward"] is own
        assert "forward" in vars(model[2])
    assert vars(model[0])["forward"] is own
