"""Whether two expressions are equal: exactly, or as far as decimals are written.

Rational numbers are compared as such. Other constants are compared numerically, with as many digits as the magnitudes
of everything within them ask for: by the uniformity conjecture (Richardson and Elsonbaly, "Counterexamples to the
uniformity conjecture", 2006; it fails for contrived nests only), a constant made of numbers that are neither very large
nor very small is zero if it is zero to a number of digits proportional to its length. So √(16 + e^{-10000}) is not 4,
which 15 digits, or simplification, do not tell.

Expressions with variables are compared in the same manner at random points (Schwartz and Zippel): those at which both
are real.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import sympy
from sympy import Expr, Integer, Rational
from sympy.functions.elementary.hyperbolic import HyperbolicFunction

from .expressions import Reading, as_fraction
from .tolerance import agree

MAX_DIGITS = 12_000
_MAX_POWER = 12
_POINTS = 12  # random points that are tried
_NEEDED = 4  # of them, at which both sides have to be defined


def equal(gold: Reading, pred: Reading, digits: int) -> bool:
    """Whether two expressions or matrices are equal.

    Args:
        gold: the reference answer.
        pred: the answer to judge.
        digits: the relative tolerance where a decimal is involved, as a number of decimal digits.
    """
    a, b = gold.value, pred.value
    if isinstance(a, sympy.MatrixBase) or isinstance(b, sympy.MatrixBase):
        if not (isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase)) or a.shape != b.shape:
            return False
        return all(
            equal(Reading(x, gold.decimal, None), Reading(y, pred.decimal, None), digits)
            for x, y in zip(a.flat(), b.flat())
        )
    if not isinstance(a, Expr) or not isinstance(b, Expr):
        return bool(a == b)
    if same(a, b):
        return True
    if not (gold.decimal or pred.decimal):
        return False
    return _close(gold, pred, digits)


def same(a: Expr, b: Expr) -> bool:
    """Whether two expressions are exactly equal."""
    if a == b:
        return True
    symbols = a.free_symbols | b.free_symbols
    if not symbols:
        return _same_constant(a, b)
    # Where they are not real, as (-1)^n is not, they may well be so at whole numbers.
    for points in (_points(symbols, _in_exponents(a, b)), _whole_points(symbols)):
        agreed = 0
        for point in points:
            x, y = a.subs(point), b.subs(point)
            if not (_real(x) and _real(y)):
                if not a.has(sympy.I) and not b.has(sympy.I):
                    continue
                if x.has(sympy.nan, sympy.zoo) or y.has(sympy.nan, sympy.zoo):
                    continue
            if not _same_constant(x, y):
                return False
            agreed += 1
        if agreed >= _NEEDED:
            return True
    return False


def proportional(a: Expr, b: Expr) -> Expr | None:
    """The constant c for which a = c·b, or None."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    for point in _points(symbols, _in_exponents(a, b)):
        x, y = a.subs(point), b.subs(point)
        if _real(x) and _real(y) and not _same_constant(x, Integer(0)) and not _same_constant(y, Integer(0)):
            ratio = x / y
            return ratio if same(a, ratio * b) else None
    return None


def _in_exponents(*expressions: Expr) -> set[sympy.Basic]:
    """The variables in exponents."""
    powers: Any = set[Any]().union(*(expression.atoms(sympy.Pow) for expression in expressions))
    return set[sympy.Basic]().union(*(power.exp.free_symbols for power in powers))


def _points(symbols: Iterable[sympy.Basic], in_exponents: set[sympy.Basic]) -> Iterable[dict[Any, Any]]:
    """Random points with rational coordinates, the same ones every time: positive, then of both signs.

    Variables in exponents get small denominators: of (a/b)^(c/d), SymPy works out b^d.
    """
    draw = random.Random(0)
    ordered = sorted(symbols, key=str)
    for i in range(_POINTS):
        signs = [1 if i % 2 == 0 or s.is_positive else draw.choice((-1, 1)) for s in ordered]  # type: ignore[attr-defined]
        if i % 2:
            signs[i // 2 % len(signs)] = 1 if ordered[i // 2 % len(signs)].is_positive else -1  # type: ignore[attr-defined]
        yield {
            symbol: sign * _small_fraction(draw) if symbol in in_exponents else sign * _fraction(draw)
            for symbol, sign in zip(ordered, signs)
        }


def _fraction(draw: random.Random) -> Any:
    return Rational(draw.randint(10, 400), draw.choice((37, 41, 97, 101)))


def _small_fraction(draw: random.Random) -> Any:
    return Rational(draw.choice((4, 8, 11, 16, 19, 22, 29, 31)), draw.choice((3, 5, 7)))


def _whole_points(symbols: Iterable[sympy.Basic]) -> Iterable[dict[Any, Any]]:
    draw = random.Random(1)
    ordered = sorted(symbols, key=str)
    for _ in range(_POINTS):
        yield {symbol: Integer(draw.randint(2, 40)) for symbol in ordered}


def _real(value: Expr) -> bool:
    if isinstance(value, Rational):
        return True
    real = value.is_extended_real
    if real is None:
        approximate = value.evalf(15)
        real = bool(approximate.is_real) or (
            approximate.is_number and abs(sympy.im(approximate)) < 1e-12 * (1 + abs(approximate))
        )
    return bool(real) and bool(value.is_finite is not False)


def _same_constant(a: Expr, b: Expr) -> bool:
    if a == b:
        return True
    if isinstance(a, Rational) and isinstance(b, Rational):
        return False
    if a.is_infinite or b.is_infinite:
        return False
    # First to few digits, which tells most that differ.
    digits = 15
    needed = min(30 + _demand(a) + _demand(b), MAX_DIGITS)
    while True:
        x, y = a.evalf(digits, maxn=2 * needed + 100), b.evalf(digits, maxn=2 * needed + 100)
        if not (x.is_number and y.is_number and _plain(x) and _plain(y)):
            return False
        difference = abs(x - y)
        scale = max(sympy.Integer(1), abs(x), abs(y)) if digits >= needed else max(abs(x), abs(y))
        if not difference <= scale * sympy.Float(10) ** (5 - digits):
            if digits >= needed or difference > scale * sympy.Float(10) ** (-8):
                return False
        elif digits >= needed:
            return needed < MAX_DIGITS
        digits = needed


def _plain(value: Expr) -> bool:
    return all(part.is_Float or part.is_Rational for part in value.as_real_imag())


@functools.lru_cache(maxsize=1000)
def _demand(expression: Expr) -> int:
    """Decimal digits to which a constant has to be known: the sum over its parts of their orders of magnitude, and of
    how many there are."""
    digits = 0
    part: Any
    for part in sympy.preorder_traversal(expression):
        digits += 2
        if isinstance(part, Rational):
            digits += len(str(abs(part.p))) + len(str(part.q)) if abs(part.p).bit_length() < 40_000 else MAX_DIGITS
        elif part.args and isinstance(part, Expr):
            approximate: Any = abs(part.evalf(3, maxn=400))
            if approximate.is_Float and approximate > 0:
                digits += 2 * abs(int(sympy.log(approximate, 10).evalf(5)))
            else:
                digits += 400
            if isinstance(part, HyperbolicFunction):  # 1 - tanh(100) is small without having small parts
                argument: Any = part.args[0]
                digits += abs(int(argument.evalf(3).as_real_imag()[0]))
        if digits > MAX_DIGITS:
            return MAX_DIGITS
    return digits


def _close(gold: Reading, pred: Reading, digits: int) -> bool:
    """Whether they agree as far as decimals are written."""
    a, b = gold.value, pred.value
    symbols = a.free_symbols | b.free_symbols
    if not symbols:
        x, y = _fractions(a), _fractions(b)
        if x is None or y is None:
            return False
        if x[1] or y[1]:  # complex: part by part
            return all(_within(u, v, digits) for u, v in zip(x, y))
        if (gold.decimal and gold.step is None) or (pred.decimal and pred.step is None):  # 2.5√2
            return _within(x[0], y[0], digits)
        return agree(x[0], gold.step, y[0], pred.step, digits)
    polynomials = _polynomials(a, b)
    if polynomials is None:
        points = _points(symbols, _in_exponents(a, b))
        values = [(_fractions(a.subs(point)), _fractions(b.subs(point))) for point in points]
        pairs = [(x[0], y[0]) for x, y in values if x and y and not x[1] and not y[1]]
        return len(pairs) >= _NEEDED and all(_within(x, y, digits) for x, y in pairs)
    p, q = polynomials
    for monomial in set(p.monoms()) | set(q.monoms()):
        x, y = _fractions(p.coeff_monomial(monomial)), _fractions(q.coeff_monomial(monomial))
        if x is None or y is None or not _within(x[0], y[0], digits) or not _within(x[1], y[1], digits):
            return False
    return True


def _polynomials(a: Expr, b: Expr) -> tuple[Any, Any] | None:
    """Both as polynomials in their variables, if they are such, of a degree that can be multiplied out."""
    powers: Any = a.atoms(sympy.Pow) | b.atoms(sympy.Pow)
    if any(power.exp.is_Integer and power.exp > _MAX_POWER for power in powers):
        return None
    variables = sorted(a.free_symbols | b.free_symbols, key=str)
    try:
        return sympy.Poly(a, *variables), sympy.Poly(b, *variables)
    except (sympy.PolynomialError, sympy.CoercionFailed):
        return None


def _within(a: Fraction, b: Fraction, digits: int) -> bool:
    return abs(a - b) * 10**digits <= abs(a)


def _fractions(value: Expr) -> tuple[Fraction, Fraction] | None:
    """The real and imaginary part, to 40 digits."""
    if isinstance(value, Rational):
        return as_fraction(value), Fraction(0)
    approximate = value.evalf(40, maxn=1000)
    if not approximate.is_number or approximate.has(sympy.nan, sympy.zoo, sympy.oo):
        return None
    parts = []
    for part in approximate.as_real_imag():
        if not (part.is_Float or part.is_Rational):
            return None
        parts.append(as_fraction(Rational(part)))
    real, imaginary = parts
    return real, imaginary if abs(imaginary) > abs(real) / 10**30 else Fraction(0)
