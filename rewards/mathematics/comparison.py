"""Whether two answers are equal under a policy: which structures can stand for which."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import sympy
from sympy import Expr, Rational

from .answers import Written, as_region
from .equality import equal, proportional, same
from .expressions import Reading, read_expression
from .forms import FLIPPED, Answer, Bracketed, Chain, Dots, Equation, Listing, Quantity, Ratio, Region, Text
from .notation import words
from .units import Unit

_TUPLES = ("()", "[]", "⟨⟩")
_FIGURE = re.compile(r"[0-9=<>+^]")
_FUNCTION = re.compile(r"[A-Za-z]\([a-z]\)")
_CHOICE = re.compile(r"(?:option |choice |answer )?[(\[]?([a-j])[)\]]?")
# What stands behind the letter is the text of the choice, unless the letter goes on as an expression or a list.
_CHOSEN = re.compile(
    r"(?:option |choice |answer )?(?:[(\[]([a-j])[)\]]|([a-j])[).:])"
    r"(?:\s(?!\s*(?:[+*/^=<>|&!,;']|-\s|(?:and|or|nor|to)\b|\\(?:cdot|times|div|pm|le|ge|neq|in)\b|(?:[a-j]\b[\s,/]*)+$))"
    r"(?:(?!\b[a-j][)\].:]|\b(?:and|or)\s+[a-j]$).)*)?",
    re.DOTALL,
)


@dataclass(frozen=True)
class Policy:
    """See `MathAnswer`, whose options these are."""

    percent: str = "drop"
    units: str = "compare"
    precision: int = 6
    ordered: bool = False
    relations_as_sets: bool = True


def matches(gold: Written, pred: Written, policy: Policy) -> bool:
    """Whether an answer is equal to the reference."""
    if gold.plain == pred.plain:
        return True
    expected, given = _in_plain_words(gold.plain), _in_plain_words(pred.plain)
    if choice := _CHOICE.fullmatch(expected.strip(" .,;:")):
        chosen = _CHOSEN.fullmatch(given) or _CHOICE.fullmatch(given.strip(" .,;:"))
        if chosen:
            return choice[1] == next(filter(None, chosen.groups()))
    if "⟦" in gold.plain + pred.plain and not _FIGURE.search(expected) and words(gold.plain) == words(pred.plain):
        return bool(words(gold.plain))
    return any(_Match(policy).answers(g, p) for g in gold.readings for p in pred.readings)


def _in_plain_words(text: str) -> str:
    return " ".join(text.replace("⟦", " ").replace("⟧", " ").casefold().split())


@dataclass(frozen=True)
class _Match:
    policy: Policy

    def answers(self, gold: Answer, pred: Answer) -> bool:
        match gold, pred:
            case Dots(), Dots():
                return True
            case Text(a), Text(b):
                return bool(a) and a == b
            case Equation(), _:
                return self.equation(gold, pred)
            case _, Equation():
                return self.stated(gold, pred)
            case Listing(), _:
                return self.listing(gold, pred)
            case _, Listing():
                return self.listed(gold, pred)
            case (Region(), _) | (_, Region()):
                return self.regions(gold, pred)
            case Bracketed(), _:
                return self.bracketed(gold, pred)
            case Ratio(), _:
                return self.ratio(gold, pred)
            case Chain(), Chain():
                return self.chains(gold, pred)
            case Quantity(), Bracketed():
                return self.bracketed(pred, gold)
            case Quantity(), Ratio((first, second), None):
                quotient = _quotient(first, second)
                return quotient is not None and self.answers(gold, quotient)
            case (Text(word), Quantity(word=same_word)) | (Quantity(word=same_word), Text(word)):
                return bool(word) and word == same_word
            case Quantity(), Quantity():
                return self.quantities(gold, pred)
            case _:
                return False

    # Equations

    def equation(self, gold: Equation, pred: Answer) -> bool:
        if not isinstance(pred, Equation):
            # Only a name may be left out: 7 = 11a + c is not 11a + c.
            as_interval = isinstance(pred, Region) and "," in gold.name
            told = gold.name or gold.chain or (_is_constant(gold.left) and _is_constant(gold.right))
            return bool(told) and not as_interval and self.answers(gold.right, pred)
        if gold.name and pred.name and self.answers(gold.right, pred.right):
            return _same_name(gold.name, pred.name)
        if gold.chain and pred.chain and not gold.name and not pred.name:
            return self.answers(gold.right, pred.right)
        a, b = _difference(gold), _difference(pred)
        if a is None or b is None:
            return gold.name == pred.name and bool(gold.left) and self._sides(gold, pred)
        if not a.free_symbols or not b.free_symbols:
            return False
        ratio = proportional(a, b)
        if ratio is None or ratio.is_zero:
            return False
        # 2x + 3 = 7 leaves x = 2 to be found; x - 2 = 0 does not.
        solved = not (gold.name and _is_constant(gold.right)) or pred.name
        return bool(solved) or (abs(ratio) == 1 and _is_zero(pred.right))

    def _sides(self, gold: Equation, pred: Equation) -> bool:
        if gold.left is None or pred.left is None:
            return False
        return self.answers(gold.left, pred.left) and self.answers(gold.right, pred.right)

    def stated(self, gold: Answer, pred: Equation) -> bool:
        """An equation where a value was expected: x = 5, or 2 + 3 = 5, but not 2x + 3 = 5."""
        if isinstance(gold, Region) and "," in pred.name:  # (a, b) = (1, 2) is no interval
            return False
        if not self.answers(gold, pred.right):
            return False
        if pred.name or pred.chain or pred.left is None:
            return True
        difference = _difference(pred)
        return difference is not None and not difference.free_symbols and same(difference, sympy.Integer(0))

    # Lists, sets, tuples

    def listing(self, gold: Listing, pred: Answer) -> bool:
        match pred:
            case Listing(items, braces):
                if gold.braces != braces and any(isinstance(item, Region) for item in (*gold.items, *items)):
                    return False
                if _are_variables(gold.items) != _are_variables(items):  # a = 1, b = 2 is neither 2, 1 nor {1, 2}
                    return not (gold.braces or braces) and self.in_order(_by_name(gold.items), _by_name(items))
                in_order = any(isinstance(item, Dots) for item in (*gold.items, *items))
                in_order = in_order or (self.policy.ordered and not (gold.braces or braces))
                return self.in_order(gold.items, items) if in_order else self.in_any_order(gold.items, items)
            case Bracketed() if not gold.braces:
                return self.tuple_like(gold, pred)
            case Region(points) if gold.braces and (region := as_region(gold)):
                return self.sets(region.points, points)
            case Region():
                return not gold.braces and self.relations(gold, pred)
            case _:
                return len(gold.items) == 1 and self.answers(gold.items[0], pred)

    def listed(self, gold: Answer, pred: Listing) -> bool:
        match gold:
            case Bracketed() if not pred.braces:
                return self.tuple_like(pred, gold, gold_is_tuple=True)
            case Region(points) if pred.braces and (region := as_region(pred)):
                return self.sets(points, region.points)
            case Region() if not pred.braces:
                return self.relations(pred, gold)
            case _:
                return len(pred.items) == 1 and self.answers(gold, pred.items[0])

    def relations(self, listing: Listing, region: Region) -> bool:
        """x > 1, x < 2 in a list: both, or where that is impossible, either."""
        parts = [item for item in listing.items if isinstance(item, Region) and item.relation]
        if len(parts) < len(listing.items) or len({part.name for part in parts}) > 1:
            return False
        both = sympy.Intersection(*(part.points for part in parts))
        points = sympy.Union(*(part.points for part in parts)) if both is sympy.S.EmptySet else both
        return self.regions(region, Region(points, parts[0].name, relation=True))

    def tuple_like(self, listing: Listing, bracketed: Bracketed, gold_is_tuple: bool = False) -> bool:
        """x = 2, y = 3 is (2, 3), in the order of the names; and 2, 3 is, in its own."""
        if len(listing.items) != len(bracketed.items) or not _is_tuple(bracketed):
            return False
        items = _by_name(listing.items)
        names = [item.name for item in items if isinstance(item, Equation)]
        if len(names) != len(set(names)):  # x = 2 or x = 3
            return False
        if gold_is_tuple:
            return self.in_order(bracketed.items, items)
        return self.in_order(items, bracketed.items)

    def in_order(self, gold: tuple[Answer, ...], pred: tuple[Answer, ...]) -> bool:
        return len(gold) == len(pred) and all(self.answers(g, p) for g, p in zip(gold, pred))

    def in_any_order(self, gold: tuple[Answer, ...], pred: tuple[Answer, ...]) -> bool:
        """As sets: every item has its equal on the other side."""
        return all(any(self.element(g, p) for p in pred) for g in gold) and all(
            any(self.element(g, p) for g in gold) for p in pred
        )

    def element(self, gold: Answer, pred: Answer) -> bool:
        """{1} is no element of {1, 2}, though {1} alone is 1."""
        return isinstance(gold, Listing) == isinstance(pred, Listing) and self.answers(gold, pred)

    def bracketed(self, gold: Bracketed, pred: Answer) -> bool:
        if isinstance(pred, Quantity) and isinstance(pred.reading.value, sympy.MatrixBase):
            return gold.left + gold.right in _TUPLES and self.in_order(gold.items, _rows(pred.reading))
        if not isinstance(pred, Bracketed) or not self.in_order(gold.items, pred.items):
            return False
        if (gold.left, gold.right) == (pred.left, pred.right):
            return True
        # [1, 2, 3] is a way to write (1, 2, 3), but of two numbers it is an interval.
        return _is_tuple(gold) and _is_tuple(pred) and (len(gold.items) > 2 or "⟨" in (gold.left, pred.left))

    # Sets of numbers

    def regions(self, gold: Answer, pred: Answer) -> bool:
        expected, given = as_region(gold), as_region(pred)
        if expected is None or given is None:
            return False
        if expected.name and given.name and not _same_name(expected.name, given.name):
            return False
        if expected.membership and given.relation and not self.policy.relations_as_sets:
            return False
        return self.sets(expected.points, given.points)

    @staticmethod
    def sets(gold: sympy.Set, pred: sympy.Set) -> bool:
        if gold == pred:
            return True
        a, b = _pieces(gold), _pieces(pred)
        if a is None or b is None or len(a) != len(b):
            return False
        return all(x[2:] == y[2:] and same(x[0], y[0]) and same(x[1], y[1]) for x, y in zip(a, b))

    # The rest

    def ratio(self, gold: Ratio, pred: Answer) -> bool:
        match pred:
            case Ratio() if gold.clock:
                return pred.clock is not None and gold.clock.agrees(pred.clock)
            case Ratio(terms) if len(terms) == len(gold.terms):
                if self.in_order(gold.terms, terms):
                    return True
                if any(isinstance(term, Dots) for term in terms):
                    return False
                quotients = [_quotient(a, b) for a, b in zip(gold.terms, terms)]
                first = quotients[0]
                return first is not None and all(q is not None and self.answers(first, q) for q in quotients[1:])
            case Quantity() if len(gold.terms) == 2 and gold.clock is None:
                quotient = _quotient(*gold.terms)
                return quotient is not None and self.answers(quotient, pred)
            case _:
                return False

    def chains(self, gold: Chain, pred: Chain) -> bool:
        flipped = Chain(pred.sides[::-1], tuple(FLIPPED.get(sign, sign) for sign in pred.signs[::-1]))
        for given in (pred, flipped):
            if gold.signs == given.signs and self.in_order(gold.sides, given.sides):
                return True
        if len(gold.signs) > 1 or len(pred.signs) > 1:
            return False
        a, b = _minus(*gold.sides), _minus(*pred.sides)
        ratio = proportional(a, b) if a is not None and b is not None else None
        if ratio is None or not ratio.is_extended_nonzero:
            return False
        return gold.signs == (pred.signs if ratio.is_extended_positive else flipped.signs)

    def quantities(self, gold: Quantity, pred: Quantity) -> bool:
        if gold.word and gold.word == pred.word:
            return True
        digits = self.policy.precision
        a, b = gold.reading, pred.reading
        if self.policy.percent == "fraction":
            a = a.scaled(Rational(1, 100)) if gold.percent else a
            b = b.scaled(Rational(1, 100)) if pred.percent else b
        if self.policy.units == "ignore":
            return equal(a, b, digits)
        if (gold.percent and pred.unit and pred.unit.known) or (pred.percent and gold.unit and gold.unit.known):
            return False
        if self.policy.units == "require" and gold.unit and not pred.unit:
            return False
        if gold.unit and pred.unit:
            ratio = _how_many(pred.unit, gold.unit)
            return ratio is not None and equal(a, b.scaled(ratio), digits)
        return equal(_with_variables(a, gold.unit, b), _with_variables(b, pred.unit, a), digits)


def _how_many(unit: Unit, other: Unit) -> Expr | None:
    """How many of the other a unit is, or None if they measure different things."""
    ratio = unit.ratio(other)
    if ratio is not None:
        return Rational(ratio.numerator, ratio.denominator)
    angles: dict[Any, Expr] = {(("degree", 1),): sympy.pi / 180, (("radian", 1),): sympy.Integer(1)}
    if unit.dimension in angles and other.dimension in angles:
        return angles[unit.dimension] / angles[other.dimension]
    return None


def _with_variables(reading: Reading, unit: Unit | None, other: Reading) -> Reading:
    """5 m as an expression with the variable m, where the other side has one."""
    if unit is None or not unit.letters or not isinstance(other.value, Expr):
        return reading
    variables = read_expression(unit.letters).value
    return reading.scaled(variables) if variables.free_symbols & other.value.free_symbols else reading


def _is_constant(side: Answer | None) -> bool:
    return isinstance(side, Quantity) and isinstance(side.reading.value, Expr) and not side.reading.value.free_symbols


def _is_zero(side: Answer) -> bool:
    return isinstance(side, Quantity) and side.reading.value == 0


def _difference(equation: Equation) -> Expr | None:
    return _minus(equation.left, equation.right) if equation.left is not None else None


def _minus(left: Answer, right: Answer) -> Expr | None:
    """The difference of two sides, if they are expressions."""
    if not isinstance(left, Quantity) or not isinstance(right, Quantity):
        return None
    a, b = left.reading.value, right.reading.value
    return a - b if isinstance(a, Expr) and isinstance(b, Expr) else None


def _quotient(top: Answer, bottom: Answer) -> Quantity | None:
    if not isinstance(top, Quantity) or not isinstance(bottom, Quantity):
        return None
    a, b = top.reading, bottom.reading
    if not isinstance(a.value, Expr) or not isinstance(b.value, Expr) or b.value == 0:
        return None
    return Quantity(Reading(a.value / b.value, a.decimal or b.decimal, None))


def _same_name(a: str, b: str) -> bool:
    if words(a).replace(" ", "") == words(b).replace(" ", "") or _head(a) == _head(b):
        return True
    return any(y == "y" and _FUNCTION.fullmatch(f) for y, f in ((a, b), (b, a)))  # the graph of a function


def _head(name: str) -> str:
    """f of f(x)."""
    return re.sub(r"\(.*\)$", "()", name)


def _are_variables(items: tuple[Answer, ...]) -> bool:
    """Whether these are values of several variables: x = 2, y = 3, but not x_1 = 2, x_2 = 3, which are two of one."""
    names = [item.name for item in items if isinstance(item, Equation) and item.name]
    return len(names) == len(items) and len({name.partition("_")[0] for name in names}) > 1


def _by_name(items: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """In the order of the variables' names, where they are values of variables."""
    if not _are_variables(items):
        return items
    return tuple(sorted(items, key=lambda item: item.name if isinstance(item, Equation) else ""))


def _is_tuple(bracketed: Bracketed) -> bool:
    if len(bracketed.items) == 2:
        return bracketed.left + bracketed.right in ("()", "⟨⟩")
    return True


def _rows(reading: Reading) -> tuple[Answer, ...]:
    """The entries of a vector, or the rows of a matrix."""
    matrix = reading.value
    if 1 in matrix.shape:
        return tuple(Quantity(replace(reading, value=entry, step=None)) for entry in matrix.flat())
    return tuple(
        Bracketed(tuple(Quantity(replace(reading, value=entry, step=None)) for entry in matrix.row(i)), "[", "]")
        for i in range(matrix.rows)
    )


def _pieces(points: sympy.Set) -> list[tuple[Expr, Expr, bool, bool]] | None:
    """A set as intervals and points in their order, or None where it is something else."""
    pieces = []
    for part in points.args if isinstance(points, sympy.Union) else (points,):
        if isinstance(part, sympy.Interval):
            pieces.append((part.start, part.end, bool(part.left_open), bool(part.right_open)))
        elif isinstance(part, sympy.FiniteSet):
            pieces.extend((point, point, False, False) for point in part)
        elif part is sympy.S.Reals:
            pieces.append((-sympy.oo, sympy.oo, True, True))
        else:
            return None
    try:
        return sorted(pieces, key=lambda piece: float(piece[0]))
    except (TypeError, OverflowError):
        return pieces
