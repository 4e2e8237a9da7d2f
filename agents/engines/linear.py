"""Linear layers whose weights stand in the order in which the processor's kernels read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ROWS = range(4, 257)
"""With how many rows products are faster so: up to 1.5 times, in float32 and bfloat16, on a processor with AVX-512 and AMX."""

WEIGHTS = 2**16
"""How many a layer has at least to be worth it: a call of oneDNN costs some 15 µs."""


class ReorderedLinears:
    """The linear layers of a model on the CPU, for products with few rows, such as those of a decoding step.

    A matrix product puts its operands in an order of its own before it multiplies. With a few rows that costs as much as
    the product, and the weights are the same in every step: oneDNN's kernels take them in their order, as models that
    torch.compile has frozen do. The copy in that order takes as much memory as the weights. It is made when it is first
    used, and again after `forget`.

    Args:
        model: any module. Layers whose `forward` somebody has replaced are left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._reordered: list[tuple[nn.Linear, Callable[[Tensor], Tensor]]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model,)

    def forget(self) -> None:
        """The weights have changed."""
        self._reordered = None

    @contextmanager
    def used(self, rows: int) -> Iterator[None]:
        """Within this context the layers run so, if that is faster for products with so many rows."""
        if self._reordered is None and rows in ROWS:
            self._reordered = [(layer, _reordered(layer)) for layer in _layers(self._model)]
        layers = (self._reordered or []) if rows in ROWS else []
        for layer, forward in layers:
            vars(layer)["forward"] = forward  # past `nn.Module.__setattr__`, which takes as long as a product
        try:
            yield
        finally:
            for layer, _ in layers:
                del vars(layer)["forward"]


def _layers(model: nn.Module) -> list[nn.Linear]:
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return []
    return [
        module
        for module in model.modules()
        if type(module) is nn.Linear
        and "forward" not in vars(module)
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
        and module.weight.numel() >= WEIGHTS
    ]


def _reordered(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), 32)  # for about so many rows
    return partial(_linear, weight=weight, bias=layer.bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
