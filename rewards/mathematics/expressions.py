r"""An expression as a SymPy object.

A parser of its own rather than SymPy's or math-verify's, for what theirs do not do: decimals stay exact rational
numbers (and are reported), keyboard notation (`pi/2`, `-1+exp(16)`, `2^10`) is read as well as LaTeX, numerals have
bases (`1010_2`), and arithmetic that would not end is not begun (see `arithmetic`). What is beyond it (integrals, sums,
limits) is left to math-verify's parser, latex2sympy2_extended.

Nothing is ever evaluated as Python.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import sympy
from sympy import Expr, I, Integer, Rational, Symbol

from .arithmetic import Unreadable, binomial, determinant, divided, factorial, opaque, raised, root, small
from .notation import MAX_DEPTH
from .spellings import FUNCTIONS, GREEK

MAX_TOKENS = 4000

_TOKEN = re.compile(
    r"(?P<number>[0-9]+\.(?![0-9])|[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+)"
    r"|(?P<command>\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+|\\.)"
    r"|(?P<word>⟦[^⟧]*⟧|[A-Za-z]+)"
    r"|(?P<mark>\*\*|[^\s])"
    r"|\s+"
)
_CONSTANTS = {
    "pi": sympy.pi,
    "e": sympy.E,
    "i": I,
    "I": I,
    "infty": sympy.oo,
    "infinity": sympy.oo,
    "oo": sympy.oo,
    "inf": sympy.oo,
}
_MEANING = {name: getattr(sympy, name) for name in FUNCTIONS if hasattr(sympy, name)} | {
    **{f"arc{name}": getattr(sympy, f"a{name}") for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{f"ar{name}": getattr(sympy, f"a{name}") for name in ("sinh", "cosh", "tanh")},
    "abs": sympy.Abs,
    "ceil": sympy.ceiling,
    "max": sympy.Max,
    "min": sympy.Min,
    "lg": lambda x: sympy.log(x, 10),
    "log": lambda x: sympy.log(x, 10),  # as math-verify reads it; ln is the natural one
    "ln": sympy.log,
    "sgn": sympy.sign,
    "cis": lambda x: sympy.cos(x) + I * sympy.sin(x),
    "cbrt": lambda x: root(x, Integer(3)),
}
_INVERSES = {name: getattr(sympy, f"a{name}") for name in ("sin", "cos", "tan", "cot", "sec", "csc")}
_SEVERAL = {"max", "min", "gcd", "lcm"}
_ABOVE = "vec hat bar overline overrightarrow tilde widetilde widehat underline dot ddot"
_ACCENTS = frozenset(_ABOVE.split())
_APPLIED = frozenset("fgh")  # what f(x) applies and a(x) multiplies
_PREFIX = re.compile(r"(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|sec|csc|cot|ln|log|exp|sqrt|pi)([a-zA-Z]{1,2})")
_FORMS = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}


@dataclass(frozen=True)
class Reading:
    """An expression as it was read.

    Attributes:
        value: the expression or matrix.
        decimal: whether a decimal number is part of it, so that it may be rounded.
        step: if it is nothing but a decimal number, the unit of its last place.
    """

    value: Any
    decimal: bool
    step: Fraction | None = None

    def scaled(self, factor: Any) -> Reading:
        """The product with a factor."""
        step = self.step
        if step is not None:
            step = step * as_fraction(factor) if isinstance(factor, Rational) else None
        return Reading(self.value * factor, self.decimal, step)


def as_fraction(number: Any) -> Fraction:
    """A rational number of SymPy's as Python's."""
    return Fraction(int(number.p), int(number.q))


def read_expression(text: str) -> Reading:
    """Read a cleaned text.

    Raises:
        Unreadable: it is no expression, or too large for one.
    """
    reader = _Reader(text)
    try:
        value = reader.group()
    except (Unreadable, ZeroDivisionError, TypeError, AttributeError, NotImplementedError, sympy.ShapeError) as e:
        if not _BEYOND.search(text):
            raise Unreadable(str(e)) from None
        value = _read_with_math_verify(text)
    else:
        if reader.left:
            raise Unreadable(f"{reader.left[-1]!r} was not expected")
    if isinstance(value, Expr) and value.has(sympy.nan, sympy.zoo):
        raise Unreadable("it is undefined")
    return Reading(value, reader.decimal, _step(text))


_BEYOND = re.compile(r"\\(?:int|sum|prod|lim|partial|iint|oint)(?![A-Za-z])|\\frac\s*\{\s*d")


def _read_with_math_verify(text: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import latex2sympy

    try:
        value = latex2sympy(text.replace("⟦", r"\text{").replace("⟧", "}"), is_real=True, normalization_config=None)
    except Exception as e:
        raise Unreadable(str(e)) from None
    if not isinstance(value, Expr):
        raise Unreadable("it is no expression")
    value = value.doit()
    return value.xreplace({f: Rational(str(f)) for f in value.atoms(sympy.Float)})


class _Reader:
    """A recursive descent over the tokens of an expression, which are consumed from the end of `left`."""

    def __init__(self, text: str) -> None:
        found = [(m.lastgroup, m.group()) for m in _TOKEN.finditer(text) if m.lastgroup]
        if len(found) > MAX_TOKENS:
            raise Unreadable("it is too long")
        parts = [part for kind, token in found for part in (_words(token) if kind == "word" else [token])]
        self.left = parts[::-1]
        self.decimal = False
        self._depth = 0
        self._last = ""  # the token that was taken last

    # Tokens

    def peek(self, ahead: int = 0) -> str:
        return self.left[-1 - ahead] if len(self.left) > ahead else ""

    def take(self, *expected: str) -> str:
        if not self.left or (expected and self.left[-1] not in expected):
            raise Unreadable(f"{self.peek() or 'the end'} where {' or '.join(expected) or 'more'} was expected")
        self._last = self.left.pop()
        return self._last

    def skip(self, *tokens: str) -> bool:
        if self.peek() in tokens:
            self.take()
            return True
        return False

    # Grammar

    def sum(self) -> Any:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("it is too deep")
        value = self.product()
        while self.peek() in ("+", "-"):
            value = small(value + self.product() if self.take() == "+" else value - self.product())
        self._depth -= 1
        return value

    def group(self) -> Any:
        r"""A sum, or two of them with TeX's \over or \choose between them."""
        value = self.sum()
        if self.skip(r"\over"):
            return divided(value, self.sum())
        return binomial(value, self.sum()) if self.skip(r"\choose") else value

    def product(self) -> Any:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        value = self.factors()
        while True:
            if self.skip("*", r"\cdot", r"\times"):
                value = small(value * self.signed(self.factors))
            elif self.skip("/", r"\div"):
                imaginary = self.is_number() and self.peek(1) in ("i", "I")  # \sqrt{3}/2 i, as 1/2 i
                value = divided(value, self.power() if imaginary else self.signed(self.factors))
            elif self.starts_factor():  # 1/2 x, where both are numerals: half of x
                value = small(value * self.factors())
            elif self.skip(r"\bmod", r"\mod"):
                value = sympy.Mod(value, self.factors())
            else:
                return value if sign > 0 else -value

    def signed(self, rule: Any) -> Any:
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        return sign * rule()

    def factors(self, of_function: bool = False) -> Any:
        """Factors without a sign between them, which bind closer than a division: a/2x is a/(2x). But 1/2x and 1/2\\pi
        are halves, as a fraction of two numerals is one number."""
        numeral = self.is_number()
        value = self.power()
        if numeral and not of_function and self.peek() == "/" and self.is_number(1):
            self.take()
            value = divided(value, self.power())
            if self.starts_factor() and not self.is_number():
                value = small(value * self.factors())
            return value
        while self.starts_factor():
            if of_function and (self.peek().lstrip("\\") in FUNCTIONS or self.peek() in ("(", "[")):
                break
            if self.is_number() and self._last not in ("!", "}"):  # 7!3! and 2^{x}3^{x}, but not 7 3
                raise Unreadable("two numbers side by side")
            value = small(value * self.power())
        return value

    def power(self) -> Any:
        base = self.postfix(self.atom())
        while self.peek() in ("^", "**"):
            self.take()
            if self.peek() == "{" and self.peek(1) == r"\circ" and self.peek(2) == "}":
                self.left[-3:] = [r"\circ"]
            if self.skip(r"\circ"):
                base = base * sympy.pi / 180
            elif self.skip("T", r"\top") and isinstance(base, sympy.MatrixBase):
                base = base.T
            elif self.skip("'"):
                base = Symbol(f"{base}'", real=True)
            else:
                base = raised(base, self.signed(self.exponent))
            base = self.postfix(base)
        return base

    def exponent(self) -> Any:
        base = self.postfix(self.atom())
        if self.peek() in ("^", "**"):
            self.take()
            return raised(base, self.signed(self.exponent))
        return base

    def postfix(self, value: Any) -> Any:
        while self.peek() == "!":
            self.take()
            value = factorial(value)
        return value

    def starts_factor(self) -> bool:
        token = self.peek()
        if not token:
            return False
        if token[0] == "\\":
            return token[1:] in _STARTING or token.startswith(r"\begin") or token == r"\{"
        return token[0].isalnum() or token[0] in ".([{" or (token == "|" and self._bars == 0)

    _bars = 0  # how many absolute values are open: a further bar closes one

    def is_number(self, ahead: int = 0) -> bool:
        return self.peek(ahead)[:1].isdigit() or (self.peek(ahead)[:1] == "." and len(self.peek(ahead)) > 1)

    def atom(self) -> Any:
        token = self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return self.numeral(token)
        if token in _FORMS:
            if token == r"\{":
                raise Unreadable("a set within an expression")
            bars, self._bars = self._bars, 0
            value = self.group()
            self.take(_FORMS[token])
            self._bars = bars
            return value
        if token == "|":
            self._bars += 1
            value = self.sum()
            self._bars -= 1
            self.take("|")
            return determinant(value) if isinstance(value, sympy.MatrixBase) else sympy.Abs(value)
        if token.startswith("⟦"):
            raise Unreadable(f"{token} is text")
        if token[0] == "\\":
            return self.command(token)
        if token in FUNCTIONS:
            return self.function(token)
        if token[0].isalpha():
            return self.symbol(token)
        raise Unreadable(f"{token!r} was not expected")

    def numeral(self, token: str) -> Any:
        if "." in token or "e" in token.lower():
            self.decimal = self.decimal or "." in token.rstrip(".") or "e-" in token.lower()
            _, _, power = token.lower().partition("e")
            if power and abs(int(power)) > 10_000:
                raise Unreadable("its exponent is too large")
            value = Rational(token.rstrip("."))
            if self.peek() == r"\overline" and self.peek(1) == "{" and self.peek(2).isdigit() and self.peek(3) == "}":
                period = self.peek(2)
                del self.left[-4:]
                places = len(token.partition(".")[2])
                value += Rational(int(period), (10 ** len(period) - 1) * 10**places)
                self.decimal = False
            return value
        if self.peek() == "_":
            return self.in_base(token)
        number = Integer(token) if len(token) < 5000 else opaque(token)
        if self.peek() == r"\frac":  # 2\frac{5}{8}
            following = "".join(self.left[-7:][::-1])
            if match := _SMALL_FRACTION.match(following):
                top, bottom = int(match[1] or match[2]), int(match[3] or match[4])
                if bottom:
                    consumed = 0
                    while consumed < len(match.group()):
                        consumed += len(self.take())
                    return number + Rational(top, bottom)
        return number

    def in_base(self, digits: str) -> Any:
        """A numeral in another base: 1010_2, 4210_{7}."""
        self.take("_")
        base = self.subscript()
        if not base.isdigit() or not 2 <= int(base) <= 36:
            raise Unreadable(f"{base} is no base")
        try:
            return Integer(int(digits, int(base)))
        except ValueError:
            raise Unreadable(f"{digits} is no numeral in base {base}") from None

    def subscript(self) -> str:
        """What stands below, as text."""
        if not self.skip("{"):
            return self.take()
        inside, level = [], 1
        while True:
            token = self.take()
            level += (token == "{") - (token == "}")
            if not level:
                return "".join(inside).replace("⟦", "").replace("⟧", "")
            inside.append(token)

    def symbol(self, name: str) -> Any:
        if name in _CONSTANTS and self.peek() != "_":
            return _CONSTANTS[name]
        if self.skip("_"):
            name = f"{name}_{self.subscript()}"
        while self.skip("'"):
            name += "'"
        if name[0] in _APPLIED and self.peek() == "(":
            self.take()
            arguments = [self.sum()]
            while self.skip(","):
                arguments.append(self.sum())
            self.take(")")
            name += f"({', '.join(map(str, arguments))})"
        return Symbol(name, real=True)

    def command(self, token: str) -> Any:
        name = token[1:]
        if name in FUNCTIONS:
            return self.function(name)
        if name in _CONSTANTS or name in GREEK:
            return self.symbol(name)
        if name == "frac":
            top = self.argument(single=True)
            return divided(top, self.argument(single=True))
        if name == "binom":
            return binomial(self.argument(), self.argument())
        if name in ("lfloor", "lceil"):
            value = self.sum()
            self.take(r"\rfloor" if name == "lfloor" else r"\rceil")
            return sympy.floor(value) if name == "lfloor" else sympy.ceiling(value)
        if name.startswith("begin"):
            return self.matrix(name)
        if name in _ACCENTS:
            return Symbol(f"{name}({self.subscript()})", real=True)
        if name in ("angle", "triangle"):
            return Symbol(f"{name}({self.take()})", real=True)
        raise Unreadable(f"{token} is not known")

    def function(self, name: str) -> Any:
        if name == "sqrt":
            index: Any = 2
            if self.skip("["):
                index = self.sum()
                self.take("]")
            return root(self.argument(), index)
        base = None
        if name == "log" and self.skip("_"):
            base = self.argument()
        power: Any = None
        if self.skip("^"):
            power = self.signed(self.exponent)
            if power == -1 and name in _INVERSES:
                return _INVERSES[name](self.applied())
        if name in _SEVERAL:
            value = self.several(name)
        elif name == "det":
            value = determinant(self.applied())
        elif name == "exp":
            value = raised(sympy.E, self.applied())
        elif base is not None:
            value = sympy.log(self.applied(), base)
        else:
            value = _MEANING[name](self.applied())
        return value if power is None else raised(value, power)

    def applied(self) -> Any:
        """A function's argument: (x+1), {x}, or the factors that follow: 2x."""
        if self.peek() in ("(", "[", "{"):
            return self.atom()
        return self.signed(lambda: self.factors(of_function=True))

    def several(self, name: str) -> Any:
        closing = _FORMS.get(self.take("(", "[", r"\{", "{"), ")")
        values = [self.sum()]
        while self.skip(","):
            values.append(self.sum())
        self.take(closing)
        if name in ("gcd", "lcm"):
            return _MEANING[name](values)
        return _MEANING[name](*values)

    def argument(self, single: bool = False) -> Any:
        """What a command such as \\frac or \\sqrt applies to: a group, or what follows directly. Of a number after
        \\frac, one digit: \\frac34."""
        if single and self.peek().isdigit() and len(self.peek()) > 1:
            digits = self.take()
            self.left.append(digits[1:])
            return Integer(digits[0])
        if self.peek() == "\\" or not self.left:
            raise Unreadable("an argument is missing")
        return self.atom()

    def matrix(self, name: str) -> Any:
        kind = name.partition("{")[2].rstrip("}").strip().rstrip("*")
        if not kind.endswith("matrix") and kind != "array":
            raise Unreadable(f"{kind} is no matrix")
        if kind == "array" and self.peek() == "{":
            self.subscript()
        rows: list[list[Any]] = [[]]
        while not self.peek().startswith(r"\end"):
            if self.skip(r"\\"):
                rows.append([])
                continue
            rows[-1].append(self.sum())
            if not self.skip("&") and self.peek() != r"\\" and not self.peek().startswith(r"\end"):
                raise Unreadable(f"{self.peek()!r} was not expected in a matrix")
        self.take()
        value = sympy.ImmutableMatrix([row for row in rows if row])
        return determinant(value) if kind == "vmatrix" else value


_SMALL_FRACTION = re.compile(r"\\frac(?:\{([0-9]{1,9})\}|([0-9](?=[0-9{])))(?:\{([0-9]{1,9})\}|([0-9](?![0-9])))")
_LITERAL = re.compile(
    r"[-+]?\s*[0-9]*\.?(?P<decimals>[0-9]*)(?:[eE](?P<exponent>[-+]?[0-9]+)"
    r"|\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{?(?P<power>-?[0-9]+)\}?)?"
)
_STARTING = FUNCTIONS | set(_CONSTANTS) | GREEK | _ACCENTS | {"frac", "binom", "lfloor", "lceil", "angle", "triangle"}


def _step(text: str) -> Fraction | None:
    """The unit of the last place of a decimal number, if the text is nothing else."""
    match = _LITERAL.fullmatch(text)
    if not match or not match["decimals"]:
        return None
    power = int(match["power"] or match["exponent"] or 0)
    return Fraction(10) ** (power - len(match["decimals"])) if abs(power) < 1000 else None


def _words(run: str) -> list[str]:
    """A run of letters as names: `sinx`, `pi`, `xy`.

    Raises:
        Unreadable: it is a word.
    """
    if run.startswith("⟦") or run in FUNCTIONS or run in _CONSTANTS or run in GREEK:
        return [run]
    if match := _PREFIX.fullmatch(run):
        return [match[1], *match[2]]
    if len(run) > 3:
        raise Unreadable(f"{run} is a word")
    return list(run)
