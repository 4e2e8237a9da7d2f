"""A model's layers in another form, for sampling on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokengym.agents import Policy
from tokengym.agents.engines import Request, Sampling, TorchEngine, layers
from tokengym.agents.engines.attention import Scores, running
from tokengym.agents.engines.layers import WEIGHTS, Product, SamplingLayers
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

SIZES: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama with biases": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=32)),
}


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are packed in small products too."""
    monkeypatch.setattr(layers, "WEIGHTS", 1)


def build(kind: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[kind]().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or "bias" in name:  # 1 and 0 at first, which would hide that they are forgotten
                p.add_(torch.rand_like(p) - 0.5)
    return model


def linears(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 70), nn.SiLU(), nn.Linear(70, 66, bias=False)).to(dtype)


def changed(model: nn.Module) -> list[bool]:
    """Whether each of the modules has another `forward`."""
    return ["forward" in vars(module) for module in model.children()]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows", [1, 37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_products_of_layers_together(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, rows: int, packed: bool
) -> None:
    monkeypatch.setattr(layers, "WEIGHTS", 1 if packed else 10**9)
    torch.manual_seed(0)
    for bias in (False, True):
        parts = [nn.Linear(64, n, bias=bias).to(dtype) for n in (20, 33, 7)]
        x, other = torch.randn(rows, 64).to(dtype), torch.randn(rows, 60).to(dtype)
        expected = torch.cat([part(x) for part in parts], dim=-1)
        product = Product(*parts)
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(product(x), expected, rtol=tolerance, atol=tolerance)
        for found, wanted in [(product(x[None]), expected[None]), (product.plus(x, other), expected + other)]:
            torch.testing.assert_close(found, wanted, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("least", [1, 64 * 100, 10**9], ids=["each packed", "both packed in one", "not packed"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_gated_products(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bias: bool, least: int) -> None:
    monkeypatch.setattr(layers, "WEIGHTS", least)
    torch.manual_seed(0)
    gate, up = (nn.Linear(64, 96, bias=bias).to(dtype) for _ in range(2))
    x = torch.randn(5, 64).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(layers._Gated(gate, up)(x), silu(gate(x)) * up(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("samples", [1, 4])
def test_log_probabilities_are_the_models(
    monkeypatch: pytest.MonkeyPatch, kind: str, samples: int, packed: bool
) -> None:
    monkeypatch.setattr(layers, "WEIGHTS", 1 if packed else 10**9)
    model = build(kind)
    engine = TorchEngine(model, Policy.tiny(0).tokenizer)
    requests = [Request([1, 2, 3], range(samples), 6), Request([4, 5, 6, 7, 8], [9], 8)]
    calls = list[int]()
    own = layers._DecoderLayer.__call__

    def counting(self: layers._DecoderLayer, x: Tensor, *others: Any) -> Tensor:
        calls.append(len(x))
        return own(self, x, *others)

    monkeypatch.setattr(layers._DecoderLayer, "__call__", counting)
    for _ in range(2):  # the second time with other weights, of which nobody told the engine
        calls.clear()
        for request, group in zip(requests, engine.generate(requests, Sampling())):
            for generation in group:
                with torch.no_grad():
                    logits = model(torch.tensor([[*request.prompt, *generation.ids]])).logits
                expected = logits[0, len(request.prompt) - 1 : -1].log_softmax(-1)
                expected = expected.gather(-1, torch.tensor(generation.ids)[:, None]).squeeze(-1)
                torch.testing.assert_close(torch.tensor(generation.logprobs), expected, atol=1e-4, rtol=0)
        assert set(calls) >= {8, samples + 1, 1}  # both prompts, both requests, the longer one
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.1)


@torch.inference_mode()
def test_a_norm_of_nothing_is_nothing() -> None:
    own = LlamaRMSNorm(2, 1e-6)
    own.weight.copy_(torch.tensor([2.0, 3.0]))
    norm = layers._RMSNorm(own)
    x = torch.tensor([[0.0, 0.0], [3e-4, -4e-4]])
    expected = torch.tensor([2.0, 3.0]) * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.usefixtures("any_size")
@torch.inference_mode()
def test_changed_weights_are_taken_after_forget() -> None:
    model = linears()
    x = torch.randn(16, 64)
    own = SamplingLayers(model)
    with own.used():
        before = model(x)
    for p in model.parameters():
        p.mul_(2.0)
    own.forget()
    with own.used():
        assert not torch.allclose(model(x), before)
        torch.testing.assert_close(model(x), linears().requires_grad_(False).apply(_double)(x))


@torch.no_grad()
def _double(module: nn.Module) -> None:
    for p in module.parameters(recurse=False):
        p.mul_(2.0)


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "linear layers"])
@torch.inference_mode()
def test_weights_in_use_move_into_huge_pages(monkeypatch: pytest.MonkeyPatch, kind: str, dtype: torch.dtype) -> None:
    model: Any = linears(dtype) if kind == "linear layers" else build(kind).to(dtype)
    moved = list[int]()
    monkeypatch.setattr(layers, "into_huge_pages", lambda address, size: moved.append(size))
    own = SamplingLayers(model)
    for _ in range(2):
        for number in range(layers.PASSES + 1):
            assert bool(moved) == (number >= layers.PASSES)
            with own.used():
                if kind == "linear layers":
                    model(torch.randn(1, 64, dtype=dtype))
                elif number == 0:
                    ids = torch.tensor([[1, 2]])
                    with running(model, _Values()):
                        model(input_ids=ids, position_ids=ids - 1, use_cache=False)
        weights = [m.weight.nbytes for m in model.modules() if isinstance(m, nn.Linear)]
        assert sum(moved) == sum(weights)
        own.forget()
        moved.clear()


@pytest.mark.usefixtures("any_size")
def test_weights_that_nobody_uses_are_not_packed_to_move(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = list[int]()
    monkeypatch.setattr(layers, "into_huge_pages", lambda address, size: moved.append(size))
    product = Product(nn.Linear(64, 64))
    product.into_huge_pages()
    assert not moved
    with torch.inference_mode():
        product(torch.zeros(1, 64))
    product.into_huge_pages()
    assert moved == [64 * 64 * 4]


class _Values:
    """A pass in which every token sees itself alone."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: Scores) -> Tensor:
        return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)


@pytest.mark.usefixtures("any_size")
def test_layers_are_as_before_outside() -> None:
    model = linears()
    x = torch.randn(16, 64, requires_grad=True)
    with SamplingLayers(model).used():
        assert changed(model) == [True, False, True]
    assert not any(changed(model))
    with pytest.raises(ZeroDivisionError), SamplingLayers(model).used():
        raise ZeroDivisionError
    assert not any(changed(model))
    model(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.usefixtures("any_size")
def test_what_others_changed_is_left_alone() -> None:
    model = linears()
    own: Any = lambda x: x @ model[0].weight.T  # noqa: E731
    vars(model[0])["forward"] = own
    with SamplingLayers(model).used():
        assert vars(model[0])["forward"] is own
        assert changed(model)[2]
    assert vars(model[0])["forward"] is own


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("change", ["nothing", "hook", "forward", "adapter", "norm", "one bias"])
def test_a_model_with_something_of_others_in_it_runs_as_it_is(change: str) -> None:
    model = build("llama")
    first, second = model.model.layers
    if change == "hook":
        first.mlp.act_fn.register_forward_hook(lambda module, inputs, output: output + 1)
    elif change == "forward":
        first.self_attn.forward = first.self_attn.forward
    elif change == "adapter":
        first.self_attn.q_proj = nn.Sequential(first.self_attn.q_proj)
    elif change == "norm":
        model.model.norm = nn.RMSNorm(64)
    elif change == "one bias":
        first.mlp.up_proj = nn.Linear(64, 96)
    with SamplingLayers(model).used():
        assert ("forward" in vars(model.model)) is (change == "nothing")
        assert ("forward" in vars(second.mlp.up_proj)) is (change != "nothing")
        assert "forward" in vars(model.lm_head)


def test_single_layers_that_are_small_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(WEIGHTS // 64, 64), nn.Linear(64, WEIGHTS // 64 - 1))
    with SamplingLayers(model).used():
        assert changed(model) == [True, False]
