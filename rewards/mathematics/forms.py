r"""The forms that an answer can have.

42, x+1, 10 cm, 50\%        Quantity
1, 2 and 3                  Listing "list": order does not matter
\{1, 2\}                    Listing "set"
(1, 2), [0, 1), ⟨1, 2⟩      Bracketed: a tuple, a vector or an interval; only the other answer can tell
(0,1)∪(2,3), ℝ, x < 1       Region: a set of numbers, with the variable's name where one is given
x = 5, y = 2x + 1           Equation
f(2) < f(1)                 Chain: a relation that is no set of numbers
7:32                        Ratio
\begin{pmatrix}…            Quantity with a matrix
Tuesday                     Text
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy

from .expressions import Reading
from .units import Unit


@dataclass(frozen=True)
class Quantity:
    """A number, expression or matrix.

    Attributes:
        reading: the expression.
        unit: what stands behind it.
        percent: whether a percent sign does.
        word: it as a word, where it may as well be one: "odd".
    """

    reading: Reading
    unit: Unit | None = None
    percent: bool = False
    word: str = ""


@dataclass(frozen=True)
class Text:
    words: str


@dataclass(frozen=True)
class Dots:
    """ "…" within a list: what it stands for is for the reader to see."""


@dataclass(frozen=True)
class Listing:
    items: tuple[Answer, ...]
    braces: bool = False


@dataclass(frozen=True)
class Bracketed:
    items: tuple[Answer, ...]
    left: str
    right: str


@dataclass(frozen=True)
class Clock:
    """4:30, which may be a time of the day: 4:30 p.m. is another way to write it, and 2:15 is not."""

    numbers: tuple[int, ...]
    half: str

    def agrees(self, other: Clock) -> bool:
        length = max(len(self.numbers), len(other.numbers))
        mine, theirs = ((*clock.numbers, 0)[:length] for clock in (self, other))
        return mine == theirs and (self.half == other.half or not (self.half and other.half))


@dataclass(frozen=True)
class Ratio:
    terms: tuple[Answer, ...]
    clock: Clock | None


@dataclass(frozen=True)
class Region:
    """A set of real numbers (or of integers, and so on).

    Attributes:
        points: the set.
        name: the variable whose values it holds, if it was given as one's.
        membership: whether it was given as "x ∈ …".
        relation: whether it was given by inequalities.
    """

    points: sympy.Set
    name: str = ""
    membership: bool = False
    relation: bool = False


@dataclass(frozen=True)
class Equation:
    """`left` = `right`. In a chain a = b = c, the last is the right side.

    Attributes:
        left: the left side, if it could be read.
        right: the right side.
        name: the left side as text, if it is nothing but a name: x, f(x), (x, y), A:B.
        chain: whether there were more than two sides.
    """

    left: Answer | None
    right: Answer
    name: str
    chain: bool


@dataclass(frozen=True)
class Chain:
    sides: tuple[Answer, ...]
    signs: tuple[str, ...]


Answer = Quantity | Text | Dots | Listing | Bracketed | Ratio | Region | Equation | Chain

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "="}
"""The sign of the same relation, read from right to left."""
