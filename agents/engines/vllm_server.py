"""`VLLMServer`: sampling with a vLLM server of one's own, by its URL."""

from __future__ import annotations

import math
import re
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
from safetensors.torch import save_file
from torch import Tensor

from ...envs import StopStrings, Tokenizer
from .base import Engine, EngineError, Generation, Request, Sampling
from .vllm_engine import check_agreement, check_requests, top_entropy


class VLLMServer(Engine):
    """Samples with a vLLM server: `VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --logprobs-mode processed_logprobs`, with the
    model that learns. Prompts and samples are ids, so that no text is tokenised on the way.

    Weights go through a folder that learner and server both see. They are stamped: if the server was started anew, or
    somebody else gave it weights, what it samples is not used. A request that fails costs its sample; a server that does
    not answer any more has failed for good.

    Args:
        url: of the server, as "http://localhost:8000".
        model: a causal language model of transformers, the server's. It is not kept.
        tokenizer: gives the end ids.
        max_tokens: the longest sequence, its prompt included.
        folder: where weights are written for the server; None takes a temporary one on this machine.
        concurrency: the most requests at a time.
        timeout: seconds for one request.

    Raises:
        ValueError: for a URL that is none.
        EngineError: if no server answers there, or it does not take weights, or it computes something else than
            transformers.
    """

    entropy_top_k = 20  # more, vLLM does not give by default

    def __init__(
        self,
        url: str,
        model: Any,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        folder: str | Path | None = None,
        concurrency: int = 256,
        timeout: float = 600.0,
    ) -> None:
        if not re.match(r"https?://[^/\s]", url):
            raise ValueError(f"the url of a server is like http://localhost:8000, not {url!r}")
        if concurrency < 1 or not 0 < timeout < math.inf:
            raise ValueError(f"concurrency is at least 1 and timeout above 0, not {concurrency} and {timeout}")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._concurrency = concurrency
        self._client = httpx2.Client(timeout=timeout, limits=httpx2.Limits(max_connections=concurrency))
        self._own = tempfile.TemporaryDirectory(prefix="tokengym-weights-") if folder is None else None
        self._folder = Path(self._own.name if self._own is not None else str(folder))
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        first: dict[int, str] = {}
        names = model.named_parameters(remove_duplicate=False)
        self._tied = {name: own for name, p in names if (own := first.setdefault(id(p), name)) != name}
        self._failure: str | None = None
        self._stamp = ""
        try:
            self._model = self._ask("GET", "/v1/models")["data"][0]["id"]
        except (httpx2.HTTPError, OSError, LookupError, TypeError, ValueError) as error:
            raise EngineError(f"no vLLM server answers at {self.url}: {error}") from error
        model.config.save_pretrained(str(self._folder))
        self.sync(model.named_parameters())
        self.version = 0
        check_agreement(self, model)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, *, entropies: bool = False
    ) -> list[list[Generation]]:
        check_requests(requests, self.max_tokens)
        if sampling.temperature and (sampling.top_p < 1 or sampling.top_k):
            raise ValueError(
                "a vLLM server reports log-probabilities after top_p and top_k: leave them out, or sample in-process"
            )
        with ThreadPoolExecutor(self._concurrency, "tokengym-vllm") as executor:
            jobs = [
                [executor.submit(self._sample, request, seed, sampling, entropies) for seed in request.seeds]
                for request in requests
            ]
            try:
                groups = [[job.result() for job in row] for row in jobs]
            except BaseException:  # Ctrl-C, too
                executor.shutdown(wait=False, cancel_futures=True)
                raise
        if not self._has_these_weights():
            return [[self._failed(entropies) for _ in group] for group in groups]
        return groups

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.check()
        given = {name: tensor.detach() for name, tensor in weights}
        for name, tensor in given.items():
            if tuple(tensor.shape) != self._shapes[name]:
                raise ValueError(f"{name} is {tuple(tensor.shape)} here and {self._shapes[name]} in the engine")
        if missing := self._shapes.keys() - given.keys():
            raise KeyError(f"the weights of {len(missing)} parameters were not given, {min(missing)!r} among them")
        given |= {name: given[own].clone() for name, own in self._tied.items()}
        stamp = f"tokengym-{uuid.uuid4().hex}"
        try:
            written = {name: tensor.contiguous().cpu() for name, tensor in given.items()}
            save_file(written, str(self._folder / "model.safetensors"), metadata={"format": "pt"})
            path = str(self._folder.resolve())
            self._ask("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
            if not self._ask("POST", "/reset_prefix_cache").get("success"):
                raise OSError("its cache of prefixes cannot be emptied")
            self._ask("POST", "/update_weight_version", {"new_version": stamp})
        except (httpx2.HTTPError, OSError, ValueError) as error:
            self._failure = (
                f"the vLLM server at {self.url} did not take the weights after version {self.version} "
                f"(was it started with VLLM_SERVER_DEV_MODE=1, and does it see {self._folder}?): {error}"
            )
            self.check()
        self._stamp = stamp
        self.version += 1

    def check(self) -> None:
        if self._failure is not None:
            raise EngineError(self._failure)

    def _has_these_weights(self) -> bool:
        """Whether the server has the weights of the last `sync`, or had them to its end."""
        if self._failure is not None:
            return False
        try:
            found = self._ask("GET", "/weight_info")["weight_version"]
        except (httpx2.HTTPError, OSError, LookupError) as error:
            self._failure = f"the vLLM server at {self.url} does not answer any more: {error}"
            return True
        if found != self._stamp:
            self._failure = f"the vLLM server at {self.url} has stale weights: it was started anew, or others use it"
        return found == self._stamp

    def _sample(self, request: Request, seed: int, sampling: Sampling, entropies: bool) -> Generation:
        if self._failure is not None:
            return self._failed(entropies)
        body = {
            "model": self._model,
            "prompt": list(request.prompt),
            "max_tokens": request.max_new_tokens,
            "temperature": sampling.temperature,
            "seed": seed,
            "logprobs": self.entropy_top_k if entropies else 0,
            "stop": list(sampling.stop),
            "stop_token_ids": sorted(self.tokenizer.end_ids),
            "ignore_eos": True,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        try:
            [choice] = self._ask("POST", "/v1/completions", body)["choices"]
        except (httpx2.HTTPError, OSError):
            return self._failed(entropies)
        if choice["finish_reason"] not in ("stop", "length"):
            return self._failed(entropies)
        found = choice["logprobs"]
        ids, finish = choice["token_ids"], choice["finish_reason"]
        # A server without a tokenizer of its own does not know where stop strings are.
        stop = StopStrings(self.tokenizer, sampling.stop)
        for n in range(1, len(ids) + 1) if sampling.stop else ():
            if stop.hit(ids[:n]):
                ids, finish = ids[:n], "stop"
                break
        each = None
        if entropies:
            each = [top_entropy(list(top.values())) for top in found["top_logprobs"][: len(ids)]]
        return Generation(ids, found["token_logprobs"][: len(ids)], finish, self.version, each)

    def _failed(self, entropies: bool) -> Generation:
        return Generation([], [], "error", self.version, [] if entropies else None)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the server answers.

        Raises:
            OSError, httpx2.HTTPError: nothing, an error, or what is no JSON.
            ValueError: the request itself is wrong.
        """
        response = self._client.request(method, self.url + path, json=body)
        if response.status_code == 400:
            raise ValueError(f"the vLLM server at {self.url} refuses {path}: {response.text[:500]}")
        if response.status_code != 200:
            raise OSError(f"{path}: HTTP {response.status_code}: {response.text[:200]}")
        try:
            return response.json() if response.content else {}
        except ValueError as error:
            raise OSError(f"{path}: no JSON but {response.text[:60]!r}") from error
