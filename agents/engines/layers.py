"""A model's layers for sampling on the CPU: the same numbers from fewer operations, and from weights that stand in the order
in which the processor's kernels read them.

In a decoding step a layer has one row of each sample. The products with its weights take a millisecond or two, and an
operation that finds the caches full of weights some twenty microseconds, however few its numbers are, one that does nothing
(`x.to(x.dtype)`) among them: the many small ones of a layer of transformers take half as long again as its products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import linear, silu
from transformers.activations import SiLUActivation
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from .attention import Scores, attend
from .huge_pages import into_huge_pages

WEIGHTS = 2**18
"""The fewest of a product that is faster with packed weights: a call with such takes some 10 µs more."""

_MKL = torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

PASSES = 128
"""After so many with the same weights these move into huge pages: that takes as long as some hundred passes gain by it."""

BACKBONES = (LlamaModel, Qwen2Model, Qwen3Model)
"""The models that `_Backbone` stands in for."""


class SamplingLayers:
    """The layers of a model on the CPU, for sampling.

    Models of the Llama family run as a whole in another form, and of other models the large linear layers do. They have a
    copy of the weights, which is made when it is first used, and again after `forget`.

    Args:
        model: any module. What somebody has changed in it by hooks or another `forward` is left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._replaced: list[tuple[nn.Module, _Backbone | Product]] | None = None
        self._passes = 0  # with these weights

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._model,)

    def forget(self) -> None:
        """The weights have changed."""
        self._replaced = None
        self._passes = 0

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within this context the layers run so."""
        if self._replaced is None:
            self._replaced = list(_replaced(self._model))
        self._passes += 1
        if self._passes == PASSES:
            for _, own in self._replaced:
                own.into_huge_pages()
        for module, own in self._replaced:
            vars(module)["forward"] = own  # past `nn.Module.__setattr__`, which takes as long as a product
        try:
            yield
        finally:
            for module, _ in self._replaced:
                del vars(module)["forward"]


class Product:
    """x Wᵀ + b, with the weights of linear layers one below the other.

    A matrix product puts its operands in an order of its own before it multiplies, which for few rows costs as much as the
    product. Here the weights of a large one are put in that order once, as those of frozen, compiled models are: in float32
    by MKL, in bfloat16 by oneDNN.

    Args:
        layers: which have the same inputs.

    Attributes:
        packed: whether the weights are in the order of the processor's kernels.
        fuses: whether oneDNN does `plus`, and what else follows a product, within it.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        self._layers = layers
        dtype = layers[0].weight.dtype
        large = sum(layer.weight.numel() for layer in layers) >= WEIGHTS
        self._by_mkl = large and _MKL and dtype == torch.float32
        self.fuses = large and _ONEDNN and dtype == torch.bfloat16
        self.packed = self._by_mkl or self.fuses

    def __call__(self, x: Tensor) -> Tensor:
        """[..., n] from `x` [..., m]."""
        if self.fuses:
            return torch.ops.mkldnn._linear_pointwise.default(x, self._weight, self._bias, "none", [], "")
        if self._by_mkl:
            return torch.ops.mkl._mkl_linear.default(x, self._weight, self._shape, self._bias, x.numel() // x.shape[-1])
        return linear(x, self._weight, self._bias)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """It plus `other` [..., n]."""
        if self.fuses:
            return torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "add")
        return self(x).add_(other)

    def silu(self, x: Tensor) -> Tensor:
        """silu of it, where it `fuses`."""
        return torch.ops.mkldnn._linear_pointwise.default(x, self._weight, self._bias, "swish", [], "")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """It times `other` [..., n], number by number, where it `fuses`."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, "mul")

    def into_huge_pages(self) -> None:
        """Move packed weights that are in use into pages of 2 MB, from which they are read faster."""
        if self.packed and "_weight" in vars(self):
            into_huge_pages(torch.ops.mkldnn.data_ptr(self._weight), sum(layer.weight.nbytes for layer in self._layers))

    @cached_property
    def _weight(self) -> Tensor:
        weight = torch.cat([layer.weight.detach() for layer in self._layers])
        # The numbers are rows for which the order is meant. It is right for any, and these are fast for 16 as for 256.
        if self.fuses:
            return torch.ops.mkldnn._reorder_linear_weight(weight, 1024)
        return torch.ops.mkl._mkl_reorder_linear_weight(weight, 128) if self._by_mkl else weight

    @cached_property
    def _bias(self) -> Tensor | None:
        biases = [layer.bias.detach() for layer in self._layers if layer.bias is not None]
        return torch.cat(biases) if biases else None

    @cached_property
    def _shape(self) -> Tensor:
        """In place of the weights as they were, of which MKL is told the shape."""
        rows, size = sum(layer.out_features for layer in self._layers), self._layers[0].in_features
        return self._layers[0].weight.new_empty(1).expand(rows, size)


class _Gated:
    """silu(x Gᵀ) · (x Uᵀ), the first half of a layer's MLP.

    Attributes:
        products: what it is made of.
    """

    def __init__(self, gate: nn.Linear, up: nn.Linear) -> None:
        self._gate, self._up, self._both = Product(gate), Product(up), Product(gate, up)
        self._width = gate.out_features
        self._fuses = self._gate.fuses and self._up.fuses
        self.products = (self._gate, self._up) if self._fuses else (self._both,)

    def __call__(self, x: Tensor) -> Tensor:
        if self._fuses:
            return self._up.times(x, self._gate.silu(x))
        both = self._both(x)
        return silu(both[:, : self._width]).mul_(both[:, self._width :])


class _RMSNorm:
    """w · x / √(mean(x²) + ε), as w √d · x / √(|x|² + d ε).

    Args:
        norms: the layer's own; if several, [..., n, d] has the weights of one for each of its n vectors.
    """

    def __init__(self, *norms: Any) -> None:
        self._dtype = norms[0].weight.dtype
        self._wide = self._dtype == torch.float32
        weights = [norm.weight.detach().float() for norm in norms]
        d = len(weights[0])
        self._weight = math.sqrt(d) * (weights[0] if len(weights) == 1 else torch.stack(weights))
        self._least = torch.tensor(math.sqrt(d * norms[0].variance_epsilon))

    def __call__(self, x: Tensor) -> Tensor:
        if not self._wide:
            x = x.float()
        y = (x / vector_norm(x, dim=-1, keepdim=True).hypot_(self._least)).mul_(self._weight)
        return y if self._wide else y.to(self._dtype)


class _DecoderLayer:
    """What a decoder layer of the Llama family does with the tokens of a pass.

    Args:
        layer: of one of `BACKBONES`.
    """

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._qkv = Product(attention.q_proj, attention.k_proj, attention.v_proj)
        self._out = Product(attention.o_proj)
        self._gated = _Gated(mlp.gate_proj, mlp.up_proj)
        self._down = Product(mlp.down_proj)
        self._before, self._between = map(_RMSNorm, (layer.input_layernorm, layer.post_attention_layernorm))
        self._size: int = attention.head_dim
        self._heads, self._kv = (p.out_features // self._size for p in (attention.q_proj, attention.k_proj))
        self._head_norm = None
        if hasattr(attention, "q_norm"):  # Qwen3
            self._head_norm = _RMSNorm(*[attention.q_norm] * self._heads, *[attention.k_norm] * self._kv)
        self._how = Scores(attention.scaling, getattr(attention, "sliding_window", None), None)

    def into_huge_pages(self) -> None:
        """`Product.into_huge_pages` of all products."""
        for product in (self._qkv, self._out, *self._gated.products, self._down):
            product.into_huge_pages()

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Hidden states [N, d] from hidden states; `cos` and `sin` [N, 1, D] are those of `_rotate`."""
        rows, heads, both = x.shape[0], self._heads, self._heads + self._kv
        qkv = self._qkv(self._before(x)).view(rows, both + self._kv, self._size)
        qk, v = qkv[:, :both], qkv[:, both:]
        if self._head_norm is not None:
            qk = self._head_norm(qk)
        _rotate(qk, cos, sin)
        x = self._out.plus(attend(qk[:, :heads], qk[:, heads:], v, self._how).view(rows, -1), x)
        return self._down.plus(self._gated(self._between(x)), x)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary position embeddings, x cos + rotate_half(x) sin, in place of `x` [N, H, D]; `sin` has rotate_half's signs."""
    halves = x.roll(x.shape[-1] // 2, -1)
    x.mul_(cos).addcmul_(halves, sin)


class _Backbone:
    """What a model of the Llama family without its output layer does with the tokens of a pass.

    Args:
        model: one of `BACKBONES`.
    """

    def __init__(self, model: Any) -> None:
        self._embed, self._rotary = model.embed_tokens, model.rotary_emb
        self._layers = [_DecoderLayer(layer) for layer in model.layers[: model.config.num_hidden_layers]]
        self._norm = _RMSNorm(model.norm)

    def into_huge_pages(self) -> None:
        """`Product.into_huge_pages` of all layers."""
        for layer in self._layers:
            layer.into_huge_pages()

    def __call__(self, input_ids: Tensor, position_ids: Tensor, **_: Any) -> BaseModelOutputWithPast:
        x = self._embed(input_ids)
        cos, sin = (part[0].unsqueeze(1) for part in self._rotary(x, position_ids))
        half = cos.shape[-1] // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        x = x[0]
        for layer in self._layers:
            x = layer(x, cos, sin)
        found: Any = self._norm(x).unsqueeze(0)
        return BaseModelOutputWithPast(last_hidden_state=found)


def _replaced(model: nn.Module) -> Iterator[tuple[nn.Module, _Backbone | Product]]:
    """The modules of `model` that run in another form, and that form."""
    inside = set[nn.Module]()
    for module in model.modules():
        if module in inside:
            continue
        if type(module) in BACKBONES and _is_plain_backbone(module):
            inside.update(module.modules())
            yield module, _Backbone(module)
        elif _is_plain_linear(module) and (product := Product(module)).packed:
            yield module, product


def _is_plain_backbone(model: Any) -> bool:
    """Whether nobody has put anything else into `model`."""
    own = {nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation}
    return all(
        (_is_plain_linear(module) if isinstance(module, nn.Linear) else not _is_changed(module))
        and (type(module) in own or type(module).__module__ == type(model).__module__)
        for module in model.modules()
    ) and all(
        len({module.bias is None for module in together}) == 1
        for layer in model.layers
        for attention, mlp in [(layer.self_attn, layer.mlp)]
        for together in [(attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)]
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
