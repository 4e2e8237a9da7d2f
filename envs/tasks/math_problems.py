r"""The built-in problems of `MathVerify-v0`: procedural, offline, and divided into train and test.

Their texts are short, because a policy that reads bytes pays for each: "27+48=?" is answered by "7+8=15,2+4+1=7,\boxed{75}".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any, Literal, NamedTuple, overload

from .generated import Draw, is_test, stable_hash

_SIZES = {"train": 100_000, "test": 2_000}


class Problem(NamedTuple):
    """A problem.

    Attributes:
        canonical: what makes it this problem, whatever its level: equal for "3+4" and "4+3".
        question: its text.
        answer: an integer, or a fraction in lowest terms.
        steps: the way to the answer as a student would write it, up to the answer itself; often empty.
    """

    canonical: tuple[Any, ...]
    question: str
    answer: int | Fraction
    steps: str = ""


def _sum_or_difference(draw: Draw, most: int, steps: Callable[[int, str, int], str] | None = None) -> Problem:
    a, b, sign = draw.integer(0, most), draw.integer(0, most), draw.choice("+-")
    if sign == "-" and a < b:
        a, b = b, a
    canonical = (sign, a, b) if a <= b else (sign, b, a)
    answer = a + b if sign == "+" else a - b
    return Problem(canonical, f"{a}{sign}{b}=?", answer, steps(a, sign, b) if steps else "")


def _below_fifty(draw: Draw) -> Problem:
    return _sum_or_difference(draw, 49, _by_columns)


def _by_columns(a: int, sign: str, b: int) -> str:
    """A written sum or difference, digit by digit from the ones: "7+8=15,2+4+1=7," for 27 + 48; "14-8=6,5-2-1=2," for
    54 - 28."""
    steps, carry = "", 0
    while True:
        x, y, carried = a % 10, b % 10, f"{sign}1" if carry else ""
        if sign == "+":
            result = x + y + carry
            carry = result // 10
        else:
            carry, borrowed = (1, 10) if x - y - carry < 0 else (0, 0)
            x += borrowed
            result = x - y - bool(carried)
        steps += f"{x}{sign}{y}{carried}={result},"
        a, b = a // 10, b // 10
        if a == b == 0:
            return steps


def _three_digits(draw: Draw) -> Problem:
    if draw.integer(0, 2):
        return _sum_or_difference(draw, 999)
    a, b = draw.integer(2, 9), draw.integer(10, 99)
    tens, ones = b // 10 * 10, b % 10
    question = f"{a}*{b}=?" if draw.integer(0, 1) else f"{b}*{a}=?"
    return Problem(("*", a, b), question, a * b, f"{a * tens}+{a * ones}=" if ones else "")


def _fractions(draw: Draw) -> Problem:
    first, second = sorted((_fraction(draw), _fraction(draw)))
    sign = draw.choice("+-*")
    if sign == "-" or draw.integer(0, 1):
        first, second = second, first
    (a, b), (c, d) = first.as_integer_ratio(), second.as_integer_ratio()
    if sign == "*":
        top, bottom, steps = a * c, b * d, ""
    else:
        bottom = lcm(b, d)
        left, right = a * (bottom // b), c * (bottom // d)
        top = left + right if sign == "+" else left - right
        steps = "" if b == d else f"{left}/{bottom}{sign}{right}/{bottom}="
    answer = Fraction(top, bottom)
    if answer.denominator != bottom:
        steps += f"{top}/{bottom}="
    return Problem((sign, *sorted((first, second))), f"{a}/{b}{sign}{c}/{d}=?", answer, steps)


def _fraction(draw: Draw) -> Fraction:
    """Numerator 1 to 9 over 2 to 12, in lowest terms, and no integer."""
    while True:
        fraction = Fraction(draw.integer(1, 9), draw.integer(2, 12))
        if fraction.denominator > 1:
            return fraction


def _linear_equation(draw: Draw) -> Problem:
    x, a, b = draw.integer(-12, 12), draw.integer(2, 9), _nonzero(draw, 20)
    if draw.integer(0, 1):
        question = f"{_linear(a, b)}={a * x + b}, x=?"
        return Problem(("ax+b=c", a, b, x), question, x, f"{a}x={a * x}, x=")
    c = draw.choice([k for k in range(1, 10) if k != a])
    d = a * x + b - c * x
    steps = f"{_linear(abs(a - c), 0)}={abs(a - c) * x}, x=" if abs(a - c) > 1 else "x="
    canonical = ("ax+b=cx+d", *sorted(((a, b), (c, d))))
    return Problem(canonical, f"{_linear(a, b)}={_linear(c, d)}, x=?", x, steps)


def _two_steps(draw: Draw) -> Problem:
    kind = draw.integer(0, 3)
    if kind == 0:  # x/a+b=c
        a, quotient, b = draw.integer(2, 9), draw.integer(-9, 9), _nonzero(draw, 20)
        question = f"x/{a}{b:+d}={quotient + b}, x=?"
        return Problem(("x/a+b=c", a, b, quotient), question, a * quotient, f"x/{a}={quotient}, x=")
    if kind == 1:  # a/(x+b)=c
        c, bottom, b = draw.integer(2, 9), draw.integer(2, 12), _nonzero(draw, 12)
        question = f"{c * bottom}/({_linear(1, b)})={c}, x=?"
        return Problem(("a/(x+b)=c", c, bottom, b), question, bottom - b, f"{_linear(1, b)}={bottom}, x=")
    a, b, c, d = draw.integer(1, 20), draw.integer(1, 20), draw.integer(2, 9), _nonzero(draw, 20)
    sign = draw.choice("+-")
    if sign == "-" and a < b:
        a, b = b, a
    inner = a + b if sign == "+" else a - b
    canonical = ("(a+b)*c+d", sign, *sorted((a, b)), c, d)
    steps = f"{inner}*{c}{d:+d}={inner * c}{d:+d}="
    return Problem(canonical, f"({a}{sign}{b})*{c}{d:+d}=?", inner * c + d, steps)


def _nonzero(draw: Draw, most: int) -> int:
    return draw.integer(1, most) * draw.choice((1, -1))


def _linear(a: int, b: int) -> str:
    """`ax+b` as it is written by hand."""
    return f"{'' if a == 1 else a}x" + (f"{b:+d}" if b else "")


@dataclass(frozen=True, slots=True)
class Level:
    """A kind of problems: its description in one line, and how one is drawn."""

    description: str
    draw: Callable[[Draw], Problem]


LEVELS: Mapping[int, Level] = {
    1: Level("sums and differences of numbers below 50, with carries: 27+48=?", _below_fifty),
    2: Level("the same of up to three digits, and products of one and two digits: 7*48=?", _three_digits),
    3: Level("sums, differences and products of two fractions: 1/2+3/4=?", _fractions),
    4: Level("linear equations with x on one side or both: 5x-3=2x+9, x=?", _linear_equation),
    5: Level("two steps: (3+4)*6-5=?, x/4+3=8, x=? or 20/(x-1)=4, x=?", _two_steps),
}


class MathProblems(Sequence[Mapping[str, Any]]):
    r"""Generated problems as dataset rows.

    A row is a dict of `question` ("27+48=?"), `answer` ("75", "-3" or "\frac{5}{4}", in lowest terms), `level` and
    `solution`, a completion as a student would write it, which ends in "\boxed{answer}".

    Row i is a function of (levels, split, i) alone, computed when it is asked for: nothing is stored, and `size` only
    says where the rows end. Each of `levels` is equally likely. Train and test share no problem, at any levels, even
    with the operands of a sum exchanged: a hash of the problem puts a tenth of all problems on the side of the test.
    Within a split a problem can come twice, and does at the lower levels: there are only 2 550 problems of level 1.

    Args:
        levels: the levels to draw from, keys of `LEVELS`; their order does not matter.
        split: "train" or "test".
        size: the number of rows; by default 100 000 for train and 2 000 for test.

    Raises:
        ValueError: unknown level or split, no levels, or a `size` below 1.
    """

    columns = ("question", "answer", "level", "solution")

    def __init__(
        self, levels: int | Sequence[int] = 1, split: Literal["train", "test"] = "train", size: int | None = None
    ):
        chosen = {levels} if isinstance(levels, int) else set(levels)
        if not chosen or not chosen <= set(LEVELS):
            known = "; ".join(f"{number}: {level.description}" for number, level in LEVELS.items())
            raise ValueError(f"levels must be one or more of those below, got {levels!r}. {known}")
        if split not in _SIZES:
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.levels = tuple(level for level in LEVELS if level in chosen)
        self.split = split
        self._size = _SIZES[split] if size is None else size
        digest = stable_hash(("MathProblems", self.levels, split), 16)
        self._key = (digest >> 64, digest & (1 << 64) - 1)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(self._size)[index]]
        draw = Draw(self._key, range(self._size)[index])
        level = draw.choice(self.levels)
        problem = LEVELS[level].draw(draw)
        while is_test(problem.canonical) != (self.split == "test"):
            problem = LEVELS[level].draw(draw)
        answer = _latex(problem.answer)
        solution = f"{problem.steps}\\boxed{{{answer}}}"
        return {"question": problem.question, "answer": answer, "level": level, "solution": solution}

    def __repr__(self) -> str:
        return f"MathProblems(levels={self.levels}, split={self.split!r}, size={self._size})"


def _latex(number: int | Fraction) -> str:
    if number.denominator == 1:
        return str(number)
    return f"{'-' if number < 0 else ''}\\frac{{{abs(number.numerator)}}}{{{number.denominator}}}"
