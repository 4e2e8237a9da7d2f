"""A model's layers for sampling on the CPU: the same numbers from fewer operations, and from weights that stand in the order
in which the processor's kernels read them.

In a decoding step a layer has one row of each sample. The products with its weights take a millisecond or two, and an
operation that finds the caches full of weights some twenty microseconds, however few its numbers are: the many small ones of
a layer of transformers take half as long again as its products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from .attention import Scores, attend

ROWS = 4
"""The fewest with which products in float32 are faster with reordered weights; on a processor with AVX-512 and AMX up to 1.5
times."""

WEIGHTS = 2**18
"""The fewest of a product for which that is so: a call of oneDNN costs some 15 µs."""

_CAN_REORDER = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

DECODERS = (LlamaDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)
"""The layers that `_DecoderLayer` stands in for."""


class SamplingLayers:
    """The layers of a model on the CPU, for sampling.

    Layers of the Llama family run as a whole in another form, and of other models the large linear layers do. They have a
    copy of the weights, which is made when it is first used, and again after `forget`.

    Args:
        model: any module. What somebody has changed in it by hooks or another `forward` is left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._replaced: list[tuple[nn.Module, _DecoderLayer | Product]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model,)

    def forget(self) -> None:
        """The weights have changed."""
        self._replaced = None

    @contextmanager
    def used(self, rows: int) -> Iterator[None]:
        """Within this context the layers run so, if that is faster for so many rows."""
        if self._replaced is None:
            self._replaced = list(_replaced(self._model))
        replaced = [(module, own) for module, own in self._replaced if rows >= own.least_rows]
        for module, own in replaced:
            vars(module)["forward"] = own  # past `nn.Module.__setattr__`, which takes as long as a product
        try:
            yield
        finally:
            for module, _ in replaced:
                del vars(module)["forward"]


class Product:
    """x Wᵀ + b, with the weights of linear layers one below the other.

    Args:
        layers: which have the same inputs.

    Attributes:
        reordered: whether the weights are in the order of the processor's kernels.
        least_rows: for how many rows it is worth it.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        self._layers = layers
        large = sum(layer.weight.numel() for layer in layers) >= WEIGHTS
        self.reordered = large and _CAN_REORDER
        self.least_rows = ROWS if self.reordered else 1
        self._weight: Tensor | None = None

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[..., n] from `x` [..., m], plus `residual` [..., n]."""
        weight = self._weight
        if weight is None:
            weight = self._copy()
        if self.reordered:
            # A matrix product puts its operands in an order of its own before it multiplies, which for few rows costs as
            # much as the product; these weights are in that order, as those of frozen, compiled models are.
            product = torch.ops.mkldnn._linear_pointwise
            if residual is None:
                return product.default(x, weight, self._bias, "none", [], "")
            return product.binary(x, residual, weight, self._bias, "add")
        y = linear(x, weight, self._bias)
        return y if residual is None else y.add_(residual)

    def _copy(self) -> Tensor:
        weight = torch.cat([layer.weight.detach() for layer in self._layers])
        biases = [layer.bias.detach() for layer in self._layers if layer.bias is not None]
        self._bias = torch.cat(biases) if biases else None
        if self.reordered:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, 32)  # for about so many rows
        self._weight = weight
        return weight


class _RMSNorm:
    """w · x / √(mean(x²) + ε), as w √d · x / √(|x|² + d ε).

    Args:
        weight: w, [..., d].
        epsilon: ε.
    """

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        d = weight.shape[-1]
        self._weight = weight.detach().float() * math.sqrt(d)
        self._least = torch.tensor(math.sqrt(d * epsilon))

    def __call__(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return (x / norm.hypot_(self._least)).mul_(self._weight).to(x.dtype)


class _Rotation:
    """Rotary position embeddings: x cos + rotate_half(x) sin. The sines have the signs of rotate_half, once for all layers
    of a pass."""

    _of: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, embeddings: tuple[Tensor, Tensor]) -> Tensor:
        """`x` [N, H, D] rotated by `embeddings`, cosines and sines [1, N, D]."""
        half = x.shape[-1] // 2
        if self._of is not embeddings:
            self._of = embeddings
            self._cos, sin = (part[0].unsqueeze(1) for part in embeddings)
            self._sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        return (x * self._cos).addcmul_(x.roll(half, -1), self._sin)


class _DecoderLayer:
    """What a decoder layer of the Llama family does with the tokens of a pass.

    Args:
        layer: one of `DECODERS`.
        rotation: which all layers of a model share.
    """

    def __init__(self, layer: Any, rotation: _Rotation) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._qkv = Product(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = Product(attention.o_proj)
        self._gate_up = Product(mlp.gate_proj, mlp.up_proj)
        self._down = Product(mlp.down_proj)
        self.least_rows = max(p.least_rows for p in (self._qkv, self._out, self._gate_up, self._down))
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        self._before, self._between = (_RMSNorm(norm.weight, norm.variance_epsilon) for norm in norms)
        self._size: int = attention.head_dim
        self._heads, self._kv = (p.out_features // self._size for p in (attention.q_proj, attention.k_proj))
        self._head_norm = None
        if hasattr(attention, "q_norm"):  # Qwen3
            weights = [attention.q_norm.weight] * self._heads + [attention.k_norm.weight] * self._kv
            self._head_norm = _RMSNorm(torch.stack(weights), attention.q_norm.variance_epsilon)
        self._rotation = rotation
        self._how = Scores(attention.scaling, getattr(attention, "sliding_window", None), None)

    def __call__(self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
        x = hidden_states[0]
        heads, both = self._heads, self._heads + self._kv
        qkv = self._qkv(self._before(x)).view(len(x), both + self._kv, self._size)
        qk, v = qkv[:, :both], qkv[:, both:]
        if self._head_norm is not None:
            qk = self._head_norm(qk)
        qk = self._rotation(qk, position_embeddings)
        x = self._out(attend(qk[:, :heads], qk[:, heads:], v, self._how).view(len(x), -1), x)
        gate, up = self._gate_up(self._between(x)).chunk(2, dim=-1)
        return self._down(silu(gate).mul_(up), x).unsqueeze(0)


def _replaced(model: nn.Module) -> Iterator[tuple[nn.Module, _DecoderLayer | Product]]:
    """The modules of `model` that run in another form, and that form."""
    rotation, inside = _Rotation(), set[nn.Module]()
    for module in model.modules():
        if module in inside:
            continue
        if type(module) in DECODERS and _is_plain_decoder(module):
            inside.update(module.modules())
            yield module, _DecoderLayer(module, rotation)
        elif _is_plain_linear(module) and (product := Product(module)).reordered:
            yield module, product


def _is_plain_decoder(layer: Any) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    together: Sequence[Sequence[nn.Module]] = (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )
    return (
        all(map(_is_plain_linear, (module for modules in together for module in modules)))
        and all(len({module.bias is None for module in modules}) == 1 for modules in together)
        and isinstance(mlp.act_fn, (nn.SiLU, SiLUActivation))
        and not any(map(_is_changed, layer.modules()))
    )


def _is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype in (torch.float32, torch.bfloat16)
        and not _is_changed(module)
    )


def _is_changed(module: nn.Module) -> bool:
    return "forward" in vars(module) or bool(module._forward_hooks) or bool(module._forward_pre_hooks)
