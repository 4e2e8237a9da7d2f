"""Equality of plain numbers without a parser of mathematics: most answers to most questions, in microseconds."""

from __future__ import annotations

import re
from fractions import Fraction

from .mathematics.tolerance import agree

MAX_LENGTH = 1000
"""Characters that a literal may have. Bounds the work; a longer one is left to the full path and its time limit."""

# Thousands start with 1 to 9: "0,123" may well be a decimal comma.
_INTEGER = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"
_LITERAL = re.compile(
    rf"""(?P<sign>-?)(?:
        (?P<whole>[0-9]+)?\s*\\[dt]?frac\{{(?P<top>-?{_INTEGER})\}}\{{(?P<bottom>{_INTEGER})\}}
        | (?:(?P<units>[0-9]+)\s+)?(?P<numerator>{_INTEGER})/(?P<denominator>{_INTEGER})
        | (?P<integer>{_INTEGER})?(?:\.(?P<decimals>[0-9]+))?
    )""",
    re.VERBOSE,
)


def fast_match(gold: str, pred: str, precision: int = 6) -> bool | None:
    r"""Whether two number literals are equal, or None where that needs the full path. Never a guess.

    Literals are integers (thousands may be grouped: `1,234`), decimals, `a/b`, `\frac{a}{b}` and mixed numbers
    (`2\frac{1}{2}`, `2 1/2`), with a minus and between dollar signs if you like. They are compared as the full path
    does: exactly, or as far as decimals are written (`mathematics.tolerance`).

    Args:
        gold: the reference answer.
        pred: the answer to judge.
        precision: the relative tolerance, as a number of decimal digits.
    """
    reference = _read(gold)
    if reference is None:
        return None
    answer = _read(pred)
    if answer is None:
        return None
    equal = agree(*reference, *answer, precision)
    return equal or (None if "," in gold and "," in pred else False)  # 1,200 and 200,1 may well be lists


def is_literal(text: str) -> bool:
    """Whether a text is such a number literal and nothing else."""
    return _read(text) is not None


def _read(text: str) -> tuple[Fraction, Fraction | None] | None:
    """The value of a literal and, of a decimal, the unit of its last place; None if it is no literal."""
    if len(text) > MAX_LENGTH:
        return None
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    match = _LITERAL.fullmatch(text)
    if match is None:
        return None
    sign, whole, top, bottom, units, numerator, denominator, integer, decimals = match.groups()
    if integer is None and decimals is None and top is None and numerator is None:
        return None  # "" and "-"
    if top and whole and top.startswith("-"):
        return None
    above = int((top or numerator or (integer or "") + (decimals or "")).replace(",", ""))
    below = int((bottom or denominator or "1").replace(",", ""))
    if below == 0:
        return None
    step = Fraction(1, 10 ** len(decimals)) if decimals else None
    value = Fraction(above, below) * (step or 1) + int(whole or units or 0)
    return (-value if sign else value), step
