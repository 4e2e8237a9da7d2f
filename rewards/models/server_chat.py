"""A chat model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import random
import re
import threading
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import httpx2

from ..episode import Message
from .chat import Replies

MAX_REPLY = 8 << 20
"""Bytes that a server's answer to one request may have."""

_TRANSIENT = (408, 409, 425, 429)  # and all from 500
_MAX_WAIT = 30.0  # seconds between two tries

T = TypeVar("T")


class ServerChat:
    """A `Chat` by an OpenAI-compatible server (vLLM, SGLang, llama.cpp, `transformers serve`, OpenAI, …) over HTTP.

    Every reply is a request of its own to POST {url}/chat/completions, because not all servers know `n`. A request that
    fails in a way that may pass (no connection, no answer in time, HTTP 408, 409, 425, 429 or 5xx, an answer that is not
    what it should be) is tried again after a wait that doubles each time, between half and all of it by chance, or as
    long as the server's Retry-After says (both at most 30 s). What fails in the end is left out of the replies, with the
    reason in `Replies.errors`; nothing is raised.

    It may be called from any thread, with or without an event loop; requests run in a thread of its own. It can be
    pickled, and used in a forked process.

    Args:
        url: of the API, as "http://localhost:8000/v1".
        model: the model's name there.
        timeout: seconds for one try, from the connection to the last byte.
        deadline: seconds for one call of `complete`. What is not there by then has failed: with it, the time that a
            server which hangs can cost is bounded.
        retries: how often a request is tried again.
        concurrency: the most requests at a time, over all calls.
        backoff: seconds before the first retry.
        api_key_env: the environment variable that has the API key. It is read at each request, and not pickled.
        body: further fields of each request, as {"top_p": 0.95} or {"chat_template_kwargs": {…}}.

    Raises:
        ValueError: an argument is out of range, or the environment variable is not set.
    """

    #: Waits for another machine, in any thread: see `Reward.runs_beside`.
    runs_beside = True

    def __init__(
        self,
        url: str,
        model: str,
        *,
        timeout: float = 120.0,
        deadline: float = 600.0,
        retries: int = 4,
        concurrency: int = 16,
        backoff: float = 0.5,
        api_key_env: str | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        if not re.match(r"https?://[^/\s]", url):
            raise ValueError(f"the url of a server is like http://localhost:8000/v1, not {url!r}")
        for name, number in (("timeout", timeout), ("deadline", deadline)):
            if not 0 < number < math.inf:
                raise ValueError(f"{name} must be a positive number of seconds, not {number}")
        if retries < 0 or concurrency < 1 or not 0 <= backoff < math.inf:
            raise ValueError(
                "retries and backoff are at least 0 and concurrency is at least 1, "
                f"not {retries}, {backoff} and {concurrency}"
            )
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ValueError(f"the environment variable {api_key_env}, which should have the API key, is not set")
        self.url, self.model = url.rstrip("/").removesuffix("/chat/completions"), model
        self._timeout, self._deadline, self._retries = timeout, deadline, retries
        self._concurrency, self._backoff = concurrency, backoff
        self._api_key_env, self._body = api_key_env, dict(body or {})
        self._start_afresh()

    def complete(
        self, conversations: Sequence[Sequence[Message]], n: int, temperature: float, max_tokens: int, seed: int
    ) -> list[Replies]:
        """See `Chat`. The seed of a request is a function of `seed`, the conversation and its number alone."""
        fields = {"model": self.model, "temperature": temperature, "max_tokens": max_tokens, **self._body}
        requests = [
            [{**fields, "messages": list(messages), "seed": _seed(seed, messages, i)} for i in range(n)]
            for messages in conversations
        ]
        running = self._loop()
        return running.run(self._complete(running, requests))

    def close(self) -> None:
        """End the thread and close connections. The next call starts anew."""
        with self._lock:
            if self._running is not None:
                self._running.close()
            self._running = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_running")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._running: _Loop | None = None
        self._process = os.getpid()

    def _loop(self) -> _Loop:
        if self._process != os.getpid():  # a forked child has no copy of the thread
            self._start_afresh()
        with self._lock:
            if self._running is None:
                self._running = _Loop(self._concurrency)
                weakref.finalize(self, self._running.close)
            return self._running

    async def _complete(self, running: _Loop, requests: list[list[dict[str, Any]]]) -> list[Replies]:
        tasks = [[asyncio.create_task(self._ask(running, body)) for body in bodies] for bodies in requests]
        every = [task for row in tasks for task in row]
        try:
            if every:
                await asyncio.wait(every, timeout=self._deadline)
        finally:
            for task in every:
                task.cancel()
        await asyncio.gather(*every, return_exceptions=True)
        return [self._replies(row) for row in tasks]

    def _replies(self, tasks: Sequence[asyncio.Task[str]]) -> Replies:
        replies = Replies()
        for task in tasks:
            error = None if task.cancelled() else task.exception()
            if task.cancelled():
                replies.errors.append(f"{self.url}: no reply within the {self._deadline:g} s of the whole call")
            elif error is not None:
                replies.errors.append(str(error) if isinstance(error, _Failed) else f"{type(error).__name__}: {error}")
            else:
                replies.append(task.result())
        return replies

    async def _ask(self, running: _Loop, body: dict[str, Any]) -> str:
        """The reply to one request.

        Raises:
            _Failed: there is none.
        """
        why = ""
        for attempt in range(self._retries + 1):
            wait = min(self._backoff * 2**attempt, _MAX_WAIT) * running.draw.uniform(0.5, 1)
            try:
                async with running.slots, asyncio.timeout(self._timeout):
                    status, headers, data = await self._post(running.client, body)
            except TimeoutError:
                why = f"no reply within {self._timeout:g} s"
            except (httpx2.HTTPError, httpx2.StreamError, OSError) as e:
                why = f"{type(e).__name__}: {e}"
            else:
                if status == 200:
                    reply = _content(data)
                    if reply is not None:
                        return reply
                    why = f"no chat completion: {_excerpt(data)}"
                else:
                    why = f"HTTP {status}: {_excerpt(data)}"
                    if status < 500 and status not in _TRANSIENT:
                        raise _Failed(f"{self.url}: {why}")
                    wait = _retry_after(headers, wait)
            if attempt < self._retries:
                await asyncio.sleep(wait)
        tries = f" (tried {self._retries + 1} times)" if self._retries else ""
        raise _Failed(f"{self.url}: {why}{tries}")

    async def _post(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[int, httpx2.Headers, bytes]:
        headers = {}
        if self._api_key_env is not None:
            headers["Authorization"] = f"Bearer {os.environ.get(self._api_key_env, '')}"
        content = json.dumps(body).encode()  # lone surrogates stay escaped
        headers["Content-Type"] = "application/json"
        url = f"{self.url}/chat/completions"
        async with client.stream("POST", url, content=content, headers=headers) as response:
            data = bytearray()
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > MAX_REPLY:
                    raise OSError(f"the answer has more than {MAX_REPLY} bytes")
            return response.status_code, response.headers, bytes(data)


class _Failed(Exception):
    """There is no reply; the message says why."""


class _Loop:
    """An event loop in a daemon thread, and what belongs to it: connections, and slots for requests."""

    def __init__(self, concurrency: int) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.draw = random.Random()  # of waits only: no result depends on it
        self.client = httpx2.AsyncClient(timeout=None, limits=httpx2.Limits(max_connections=concurrency))
        self._loop = asyncio.new_event_loop()
        self._closing = False
        threading.Thread(target=self._run, name="tokengym-server-chat", daemon=True).start()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C, too: the requests end with the call
            future.cancel()
            raise

    def close(self) -> None:
        """Twice is as good as once: the second would come to a loop that is ending."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self.client.aclose()
            self._loop.stop()

        if not self._closing:
            self._closing = True
            asyncio.run_coroutine_threadsafe(end(), self._loop)


def _seed(seed: int, messages: Sequence[Message], number: int) -> int:
    """31 bits."""
    text = json.dumps([seed, list(messages), number], sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def _content(data: bytes) -> str | None:
    """The text of a chat completion; None if it is none."""
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return content if isinstance(content, str) else None


def _retry_after(headers: httpx2.Headers, otherwise: float) -> float:
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return otherwise
    return min(seconds, _MAX_WAIT) if seconds >= 0 else otherwise


def _excerpt(data: bytes) -> str:
    return repr(data[:200].decode(errors="replace"))
