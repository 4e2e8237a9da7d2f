"""`TextSpace`: any text as an observation or action, in every kind of Gymnasium vector environment."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from types import ModuleType
from typing import Any, overload

import numpy as np
from gymnasium.spaces import Space, Text
from gymnasium.spaces.utils import flatdim, flatten, flatten_space, is_space_dtype_shape_equiv, unflatten
from gymnasium.vector.utils import (
    batch_differing_spaces,
    batch_space,
    concatenate,
    create_empty_array,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from gymnasium.wrappers.utils import create_zero_array

_BYTES_PER_CHARACTER = 4  # the most that UTF-8 takes
_SAMPLE_LENGTH = 32


class TextSpace(Space[str]):
    """All strings of at most `max_length` characters (Unicode code points), the empty one included.

    Gymnasium's `Text` has a fixed character set, and an `AsyncVectorEnv` with shared memory reads its observations
    once, when it is made, and never again (Gymnasium 1.4). This space has no character set, and its observations are
    exact in `SyncVectorEnv` and `AsyncVectorEnv`, alone or inside `Dict` and `Tuple`.

    A batch of texts is a tuple of strings. Shared memory holds each text as UTF-8 beside its length in bytes, and takes
    `4 * max_length` bytes per environment (256 KiB by default); to write a longer text raises a ValueError. With
    `AsyncVectorEnv(..., copy=False)` a batch is a sequence that reads that memory whenever it is used: as with
    Gymnasium's arrays, what it holds is then valid only until the next step.

    Args:
        max_length: the most characters that a text may have, at least 1.
        seed: for `sample`.

    Raises:
        ValueError: `max_length` is less than 1.
    """

    def __init__(self, max_length: int = 65_536, *, seed: int | np.random.Generator | None = None):
        if max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {max_length}")
        self.max_length = int(max_length)
        super().__init__(dtype=str, seed=seed)

    def sample(self, mask: None = None, probability: None = None) -> str:
        """A random text of 0 to 32 printable ASCII characters.

        Raises:
            ValueError: a `mask` or `probability` was given; they choose from a character set, and this space has none.
        """
        if mask is not None or probability is not None:
            raise ValueError("TextSpace.sample takes neither mask nor probability: any character is allowed")
        length = self.np_random.integers(min(self.max_length, _SAMPLE_LENGTH), endpoint=True)
        codes = self.np_random.integers(ord(" "), ord("~"), size=length, dtype=np.uint8, endpoint=True)
        return codes.tobytes().decode("ascii")

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string of at most `max_length` characters."""
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """False: a text has no fixed number of dimensions."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextSpace) and self.max_length == other.max_length

    def __repr__(self) -> str:
        return f"TextSpace({self.max_length})"


# Gymnasium's handlers of `Text` that only copy the space or collect the items fit any text.
batch_space.register(TextSpace, batch_space.dispatch(Text))
batch_differing_spaces.register(TextSpace, batch_differing_spaces.dispatch(Text))
concatenate.register(TextSpace, concatenate.dispatch(Text))

# `iterate` must not be registered, as it is not for `Text`: on a Tuple of registered spaces it walks *through* each
# item, and a batch of actions would come apart into characters; on a Tuple of others it hands out the items themselves.


@create_empty_array.register
def _(space: TextSpace, n: int = 1, fn: Any = np.zeros) -> tuple[str, ...]:
    return ("",) * n


@create_zero_array.register
def _(space: TextSpace) -> str:
    return ""


@is_space_dtype_shape_equiv.register
def _(space_1: TextSpace, space_2: Space) -> bool:
    return space_1 == space_2


@flatdim.register
def _(space: TextSpace) -> int:
    raise ValueError(f"{space} cannot be flattened to an array: a text has no fixed size; tokenize it instead")


# As in Gymnasium, a space without fixed size flattens to itself: the rest of a Dict or Tuple can then be flattened.
@flatten_space.register
def _(space: TextSpace) -> Any:
    return TextSpace(space.max_length)


@flatten.register
def _(space: TextSpace, x: Any) -> Any:
    return x


@unflatten.register
def _(space: TextSpace, x: Any) -> Any:
    return x


class _SharedTexts(Sequence[str]):
    """The texts in shared memory, decoded at each access. Its copies and pickles are plain tuples of strings.

    `AsyncVectorEnv` calls `read_from_shared_memory` only once and hands out a deep copy of its result after each step.
    """

    def __init__(self, lengths: Any, data: Any):
        self._lengths, self._data = lengths, memoryview(data).cast("B")

    def __len__(self) -> int:
        return len(self._lengths)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        index = range(len(self))[index]
        start = index * (len(self._data) // len(self))
        # surrogatepass: a lone surrogate, which JSON can bring into a dataset, is a character like any other.
        return bytes(self._data[start : start + self._lengths[index]]).decode("utf-8", "surrogatepass")

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}{tuple(self)}"


@create_shared_memory.register
def _(space: TextSpace, n: int = 1, ctx: ModuleType = multiprocessing) -> tuple[Any, Any]:
    # Without locks: the main process reads only after a worker's message that it has written.
    return ctx.RawArray("Q", n), ctx.RawArray("B", n * space.max_length * _BYTES_PER_CHARACTER)


@read_from_shared_memory.register
def _(space: TextSpace, shared_memory: tuple[Any, Any], n: int = 1) -> Any:
    return _SharedTexts(*shared_memory)


@write_to_shared_memory.register
def _(space: TextSpace, index: int, value: str, shared_memory: tuple[Any, Any]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"expected a text of {space} for environment {index}, got {type(value).__name__}: {value!r}")
    if len(value) > space.max_length:
        raise ValueError(
            f"the text of environment {index} has {len(value)} characters, over the limit of its {space!r}"
        )
    lengths, data = shared_memory
    encoded = value.encode("utf-8", "surrogatepass")
    start = index * space.max_length * _BYTES_PER_CHARACTER
    memoryview(data).cast("B")[start : start + len(encoded)] = encoded
    lengths[index] = len(encoded)
