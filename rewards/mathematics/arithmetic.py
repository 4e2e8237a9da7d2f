"""Arithmetic that ends: SymPy's, with a bound on the size of exact numbers.

A power, factorial or binomial coefficient of more than `MAX_BITS` bits becomes a symbol of that name, which is equal to
itself only. What would still be too large is refused.
"""

from __future__ import annotations

import math
from typing import Any

import sympy
from sympy import Expr, Integer, Pow, Rational, Symbol

MAX_BITS = 200_000
_FACTORED = 10**12  # up to which a base is looked at for being a power itself


class Unreadable(ValueError):
    """It is no expression, or none that is defined and can be worked out."""


def opaque(name: str) -> Symbol:
    """A number that is too large to be worked out."""
    return Symbol(f"⟨{name}⟩", real=True, positive=True)


def _has_opaque(value: Any) -> bool:
    return any(symbol.name.startswith("⟨") for symbol in value.free_symbols)


def small(value: Any) -> Any:
    """The value itself.

    Raises:
        Unreadable: it is an exact number of more than `MAX_BITS` bits.
    """
    if isinstance(value, Rational) and max(value.p.bit_length(), value.q.bit_length()) > MAX_BITS:
        raise Unreadable("a number is too large")
    return value


def divided(top: Any, bottom: Any) -> Any:
    if bottom == 0:
        raise Unreadable("division by zero")
    return small(top / bottom)


def raised(base: Any, exponent: Any) -> Any:
    if isinstance(base, sympy.MatrixBase):
        return _matrix_power(base, exponent)
    if not isinstance(base, Expr) or not isinstance(exponent, Expr):
        raise Unreadable("a power of something else than numbers")
    if base == 0 and exponent == 0:
        raise Unreadable("0^0")
    too_large = _has_opaque(exponent)
    if isinstance(exponent, Rational):
        if isinstance(base, Rational) and base not in (0, 1, -1):
            bits = max(base.p.bit_length(), base.q.bit_length())
            too_large = abs(exponent) * bits > MAX_BITS or exponent.q > 10_000
        elif not isinstance(base, Symbol):
            too_large = abs(exponent) > 10**6
    return _large_power(base, exponent) if too_large else Pow(base, exponent)


def _large_power(base: Any, exponent: Any) -> Any:
    """A power that is not worked out, under one name for 4^500000, 2^1000000 and the inverse of 2^-1000000."""
    if isinstance(base, Rational) and base < 0 and isinstance(exponent, Integer):
        power = _large_power(-base, exponent)
        return -power if exponent % 2 else power
    if exponent.is_negative:
        return 1 / _large_power(base, -exponent)
    if isinstance(base, Rational) and not isinstance(base, Integer):
        return _large_power(Integer(base.p), exponent) / _large_power(Integer(base.q), exponent)
    if base == 1:
        return base
    if isinstance(base, Integer) and 1 < base < _FACTORED and (perfect := sympy.perfect_power(base)):
        base, exponent = Integer(perfect[0]), perfect[1] * exponent
    return opaque(f"({base})^({exponent})")


def root(value: Any, index: Any) -> Any:
    """The root of a number; of an odd index, that of a negative number is negative."""
    odd = isinstance(index, Integer) and index % 2 == 1
    if odd and isinstance(value, Expr) and value.is_number and value.is_extended_negative:
        return -raised(-value, divided(Integer(1), index))
    return raised(value, divided(Integer(1), index))


def factorial(value: Any) -> Any:
    too_large = _has_opaque(value)
    if isinstance(value, Rational) and value > 3:
        too_large = value > MAX_BITS or value * math.log2(value) > MAX_BITS
    return opaque(f"({value})!") if too_large else sympy.factorial(value)


def binomial(top: Any, bottom: Any) -> Any:
    if isinstance(top, Rational) and isinstance(bottom, Rational):
        fewer = min(abs(bottom), abs(top - bottom))
        if fewer * max(top.p.bit_length(), 1) > MAX_BITS:
            return opaque(f"binom({top},{bottom})")
    return sympy.binomial(top, bottom)


def _matrix_power(matrix: Any, exponent: Any) -> Any:
    most = 10 if matrix.free_symbols else 1000
    if (
        not isinstance(exponent, Integer)
        or abs(exponent) > most
        or (exponent < 0 and matrix.rows > _determinable(matrix))
    ):
        raise Unreadable("a matrix to this power")
    return matrix**exponent


def determinant(matrix: Any) -> Any:
    if not isinstance(matrix, sympy.MatrixBase) or matrix.rows != matrix.cols or matrix.rows > _determinable(matrix):
        raise Unreadable("the determinant of something else than a small square matrix")
    return matrix.det()


def _determinable(matrix: Any) -> int:
    """How many rows it may have."""
    return 4 if matrix.free_symbols else 20
