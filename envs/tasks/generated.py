"""Generated problems as dataset rows, divided into train and test: what the built-in data of the tasks share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import count
from typing import Any, NamedTuple, overload

import numpy as np

_SIZES = {"train": 100_000, "test": 2_000}
_TEST_SHARE = 0.1
_NUMBERS = 8  # drawn at a time, four for each value of the counter
_MAX_DRAWS = 10_000  # on one side before the problems are taken to be too few

_own = threading.local()


class Draw:
    """Random numbers of one row: the Philox stream of its key, from its index on (Salmon et al. 2011, "Parallel Random
    Numbers: As Easy as 1, 2, 3").

    Raw integers rather than a `numpy.random.Generator`: only those are promised to stay the same in every NumPy version
    (NEP 19), and held-out problems must stay held out.
    """

    def __init__(self, key: Sequence[int], index: int):
        self._raw = _philox(key, index).__next__

    def integer(self, low: int, high: int) -> int:
        """Uniform in [low, high], both included (but for the remainder of 2^64, far below what could be noticed)."""
        return low + self._raw() % (high - low + 1)

    def choice(self, options: Sequence[Any]) -> Any:
        """One of `options`, uniformly."""
        return options[self.integer(0, len(options) - 1)]

    def sample(self, options: Sequence[Any], count: int) -> list[Any]:
        """`count` different ones of `options`, in random order."""
        rest = list(options)
        return [rest.pop(self.integer(0, len(rest) - 1)) for _ in range(count)]


def _philox(key: Sequence[int], index: int) -> Iterator[int]:
    """The stream of a key from an index on. The index is the counter's high word and the numbers advance the low one: no
    two indices share a number."""
    try:
        generator, state, stream, counter = _own.parts
    except AttributeError:
        generator = np.random.Philox(0)
        state: Any = generator.state
        stream, counter = state["state"]["key"], state["state"]["counter"]
        _own.parts = generator, state, stream, counter
    for low in count(0, _NUMBERS // 4):
        # To put one generator elsewhere takes a tenth of the time that a new one takes.
        stream[0], stream[1] = key
        counter[0], counter[3] = low, index
        generator.state = state
        yield from generator.random_raw(_NUMBERS).tolist()


class Problem(NamedTuple):
    """A generated problem.

    Attributes:
        key: what makes it this problem: equal for two that must not be one in train and one in test. Its `repr` is hashed.
        row: the dataset row.
    """

    key: Any
    row: dict[str, Any]


class GeneratedRows(Sequence[Mapping[str, Any]]):
    """Problems drawn as they are asked for.

    Row i is a function of (name, split, i) and of how problems are drawn alone: nothing is stored. Train and test share no
    key: a hash of it puts a tenth of all on the side of the test. Within a split a problem can come twice.

    Args:
        name: of the stream of random numbers.
        draw: makes a problem of random numbers; None where they make none, and others are drawn. To be pickled it has to
            be a function at the top of a module, or a `functools.partial` of one.
        split: "train" (100 000 rows) or "test" (2 000).

    Raises:
        ValueError: unknown split, or (when the first row is asked for) no problem was found on its side.
    """

    def __init__(self, name: str, draw: Callable[[Draw], Problem | None], split: str) -> None:
        if split not in _SIZES:
            raise ValueError(f'the split of generated problems is "train" or "test", not {split!r}')
        self.name, self.split = name, split
        self._draw = draw
        digest = stable_hash((name, split), 16)
        self._key = (digest >> 64, digest & (1 << 64) - 1)

    def __len__(self) -> int:
        return _SIZES[self.split]

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        draw = Draw(self._key, range(len(self))[index])
        for _ in range(_MAX_DRAWS):
            problem = self._draw(draw)
            if problem is not None and is_test(problem.key) == (self.split == "test"):
                return problem.row
        raise ValueError(f"{self!r}: with these options there are too few problems to hold some out for a test")

    def __repr__(self) -> str:
        return f"<generated rows of {self.name}, {self.split}>"


def is_test(key: Any) -> bool:
    """Whether the problem with this key is held out for the test."""
    return stable_hash(key, 8) < _TEST_SHARE * 2**64


def stable_hash(value: Any, size: int) -> int:
    """An integer of `size` bytes, the same in every process and version: of the value's `repr`."""
    return int.from_bytes(blake2b(repr(value).encode("utf-8", "surrogatepass"), digest_size=size).digest(), "big")


class Remembered(Sequence[Mapping[str, Any]]):
    """Rows that cost more than a little to make, the last ones of which are kept.

    Args:
        rows: the rows. What they give must not be changed.
        count: how many are kept.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], count: int = 4096) -> None:
        self._rows, self._count = rows, count
        self._row = lru_cache(count)(rows.__getitem__)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        return dict(self._row(range(len(self))[index]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._rows, self._count)

    def __repr__(self) -> str:
        return repr(self._rows)
