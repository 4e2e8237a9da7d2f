"""What stands behind a number: units of measurement, currencies, and words such as "apples"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from .spellings import FUNCTIONS

# Every unit as a power product of base units ("kg m s^-2") times a factor.
_PREFIXES = {"n": -9, "µ": -6, "μ": -6, "m": -3, "c": -2, "d": -1, "k": 3, "M": 6, "G": 9, "T": 12}
_LONG_PREFIXES = {"nano": -9, "micro": -6, "milli": -3, "centi": -2, "deci": -1, "kilo": 3, "mega": 6, "giga": 9}
_PREFIXED = {  # symbol, name: factor, dimension
    ("m", "meter"): ("1", {"m": 1}),
    ("m", "metre"): ("1", {"m": 1}),
    ("g", "gram"): ("1/1000", {"kg": 1}),
    ("s", "second"): ("1", {"s": 1}),
    ("L", "liter"): ("1/1000", {"m": 3}),
    ("l", "litre"): ("1/1000", {"m": 3}),
    ("J", "joule"): ("1", {"kg": 1, "m": 2, "s": -2}),
    ("W", "watt"): ("1", {"kg": 1, "m": 2, "s": -3}),
    ("N", "newton"): ("1", {"kg": 1, "m": 1, "s": -2}),
    ("Pa", "pascal"): ("1", {"kg": 1, "m": -1, "s": -2}),
    ("Hz", "hertz"): ("1", {"s": -1}),
    ("A", "ampere"): ("1", {"A": 1}),
    ("V", "volt"): ("1", {"kg": 1, "m": 2, "s": -3, "A": -1}),
    ("C", "coulomb"): ("1", {"A": 1, "s": 1}),
    ("K", "kelvin"): ("1", {"K": 1}),
    ("mol", "mole"): ("1", {"mol": 1}),
    ("cal", "calorie"): ("4.184", {"kg": 1, "m": 2, "s": -2}),
    ("eV", "electronvolt"): ("1.602176634e-19", {"kg": 1, "m": 2, "s": -2}),
    ("B", "byte"): ("8", {"bit": 1}),
}
_PLAIN = {  # spellings: factor, dimension
    "in inch inches": ("0.0254", {"m": 1}),
    "ft foot feet": ("0.3048", {"m": 1}),
    "yd yard": ("0.9144", {"m": 1}),
    "mi mile": ("1609.344", {"m": 1}),
    "lb lbs pound": ("0.45359237", {"kg": 1}),
    "oz ounce": ("0.028349523125", {"kg": 1}),
    "ton tonne": ("1000", {"kg": 1}),
    "sec secs": ("1", {"s": 1}),
    "min minute mins": ("60", {"s": 1}),
    "h hr hour": ("3600", {"s": 1}),
    "day": ("86400", {"s": 1}),
    "week": ("604800", {"s": 1}),
    "month": ("1", {"month": 1}),
    "yr year": ("12", {"month": 1}),
    "acre": ("4046.8564224", {"m": 2}),
    "ha hectare": ("10000", {"m": 2}),
    "gal gallon": ("0.003785411784", {"m": 3}),
    "quart": ("0.000946352946", {"m": 3}),
    "pint": ("0.000473176473", {"m": 3}),
    "cc": ("1/1000000", {"m": 3}),
    "mph": ("0.44704", {"m": 1, "s": -1}),
    "kmh kph kmph": ("1/3.6", {"m": 1, "s": -1}),
    "deg degree ° \\circ": ("1", {"degree": 1}),
    "rad radian": ("1", {"radian": 1}),
    "celsius": ("1", {"celsius": 1}),
    "fahrenheit": ("1", {"fahrenheit": 1}),
    "¤ dollar usd": ("1", {"dollar": 1}),
    "cent ¢ penny pennies": ("1/100", {"dollar": 1}),
    "€ euro eur": ("1", {"euro": 1}),
    "£ gbp": ("1", {"pound sterling": 1}),
    "¥ yen": ("1", {"yen": 1}),
    "₹ rs rupee": ("1", {"rupee": 1}),
}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_PER = {"/", "per", r"\div"}
_NOTHING = {
    "unit",
    "number",
    "integer",
    "point",
    "digit",
    r"\cdot",
    "*",
    r"\times",
    "of",
    "the",
}  # says no more than none
_NOT_UNITS = FUNCTIONS | {"pi", "infinity", "infty", "inf", "oo", "theta", "alpha", "beta", "choose", "base", "mod"}
_WORD = re.compile(
    r"\^\s*(?:\{\s*(?P<group>-?[0-9]+|\\circ)\s*\}|(?P<power>-?[0-9]|\\circ))|[A-Za-zµμ]+|\\[A-Za-z]+|\S"
)


@dataclass(frozen=True)
class Unit:
    """A unit of measurement: `factor` times the product of base units to their powers, or words that are none.

    Attributes:
        factor: how many of the base units it is.
        dimension: powers of the base units.
        words: its words, in the singular.
        known: whether it is a unit of measurement; else only the words can be compared.
        letters: its text, where it may as well be variables (5 m).
    """

    factor: Fraction = Fraction(1)
    dimension: tuple[tuple[str, int], ...] = ()
    words: frozenset[str] = field(default=frozenset(), compare=False)
    known: bool = True
    letters: str = ""

    def ratio(self, other: Unit) -> Fraction | None:
        """How many of `other` it is, or None if they measure different things."""
        if not (self.known and other.known):
            return Fraction(1) if self.words & other.words else None
        if self.dimension == other.dimension:
            return self.factor / other.factor
        return None


def _table() -> Mapping[str, tuple[Fraction, dict[str, int]]]:
    table: dict[str, tuple[Fraction, dict[str, int]]] = {}
    for (symbol, name), (factor, dimension) in _PREFIXED.items():
        table[symbol] = table[name] = _fraction(factor), dimension
        for prefixes, stem in ((_PREFIXES, symbol), (_LONG_PREFIXES, name)):
            for prefix, power in prefixes.items():
                table.setdefault(prefix + stem, (_fraction(factor) * Fraction(10) ** power, dimension))
    for names, (factor, dimension) in _PLAIN.items():
        for name in names.split():
            table[name] = _fraction(factor), dimension
    return table


def _fraction(text: str) -> Fraction:
    top, _, bottom = text.partition("/")
    return Fraction(top) / Fraction(bottom or "1")


_UNITS = _table()


def take_unit(text: str) -> tuple[str, Unit | None]:
    r"""A cleaned answer without the unit that stands behind it (or the currency before it), and the unit.

    A unit stands behind a number or a closing bracket: `10⟦cm⟧`, `10 cm^2`, `(3+4) km/h`, `5 apples`, `90^\circ`,
    `¤5`. A bare letter is one only after a space (`5 m`, but not `5m`).
    """
    text = _TEMPERATURE.sub(lambda m: "⟦celsius⟧" if m[1][0] in "Cc" else "⟦fahrenheit⟧", text)
    if currency := _CURRENCY.match(text):
        rest, behind = take_unit(currency["sign"] + text[currency.end() :].strip())
        return rest, behind if behind and behind.known else parse_unit(currency["name"])
    start = _start(text)
    if start is None:
        return text, None
    value, tail = text[:start].rstrip(), text[start:].strip()
    if tail[0] == "^" and any(name in value for name in FUNCTIONS):
        return text, None  # degrees within an expression
    spaced = text[start - 1 : start].isspace() or "⟦" in tail
    counts = text[:start].rstrip()[-1:] in _COUNTING  # else 2\pi cm, x⟦cm⟧, but not f⟦is even⟧
    bare = tail.isalpha() and len(tail) == 1
    if bare and not spaced:
        return text, None
    unit = parse_unit(tail)
    if unit is None or not (unit.known or (spaced and counts)):
        return text, None
    if unit == Unit():
        return value, None
    if _LETTERS.fullmatch(tail):
        unit = replace(unit, letters=tail)
    return value, unit


_COUNTING = frozenset("0123456789)}]!.|")  # what a number ends in
_TAIL = re.compile(
    r"(?<=[0-9)}\]!.|])\s*(?:⟦|(?<!_)(?!pi(?![A-Za-z]))[A-Za-zµμ]{2,}|\s[A-Za-z]\s*(?:$|[/^])|\^\s*\{?\s*\\circ|[¤€£¥₹¢°])|(?<=[0-9])[msghLlN]\s*[\^/]"
    r"|(?<=[A-Za-z])\s*⟦|(?<=pi)\s+[A-Za-zµμ]{2,}"
)
_CURRENCY = re.compile(r"(?P<sign>-?)\s*(?P<name>[¤€£¥₹]|(?:USD|EUR|GBP|Rs)(?![A-Za-z])\.?(?=\s*[0-9]))", re.IGNORECASE)
_TEMPERATURE = re.compile(
    r"(?:\^\s*\{?\s*\\circ\s*\}?|(?<![A-Za-z])degrees?)\s*⟦?\s*(C|F|(?i:celsius|fahrenheit))(?![A-Za-z])\s*⟧?"
)


def _start(text: str) -> int | None:
    """Where the unit starts."""
    for match in _TAIL.finditer(text):
        start = match.end() - len(match.group().lstrip())
        opening = text[:start]
        if opening.count("{") - opening.count("}") == opening.count(r"\{") - opening.count(r"\}") and opening.count(
            "("
        ) == opening.count(")"):
            return start
    return None


_LETTERS = re.compile(r"[A-Za-z](?:\s*\^\s*\{?-?[0-9]\}?)?(?:\s*/\s*[A-Za-z](?:\s*\^\s*\{?-?[0-9]\}?)?)?")


def parse_unit(text: str) -> Unit | None:
    """The unit that a text names, or None if it is something else (there are digits or operators in it)."""
    factor, dimension, unknown = Fraction(1), dict[str, int](), set[str]()
    sign, power, last = 1, 1, ""
    in_text, telling = "⟦" in text, False  # whether the words are marked as such, or one is too long for variables
    for match in _WORD.finditer(text.replace("⟦", " ").replace("⟧", " ")):
        word = match.group()
        telling = telling or len(word) > 3
        exponent = match.group("power") or match.group("group")
        if exponent and not exponent.lstrip("-").isdigit():
            word, exponent = r"\circ", None
        if exponent or word in ("squared", "cubed"):
            times = int(exponent) if exponent else _POWERS[word]
            if last in _NOTHING:
                continue
            if last not in _UNITS or not 0 < abs(times) < 10:
                return None
            base, powers = _UNITS[last]
            # It has been counted once already.
            factor *= (base**sign) ** (times - 1)
            for name, p in powers.items():
                dimension[name] = dimension.get(name, 0) + sign * (times - 1) * p
        elif word in _PER:
            sign = -1
        elif word in _POWERS:
            power = _POWERS[word]
        elif (known := _known(word)) is not None:
            base, powers = _UNITS[known]
            factor *= base ** (sign * power)
            for name, p in powers.items():
                dimension[name] = dimension.get(name, 0) + sign * power * p
            last, power = known, 1
        elif word.isalpha():
            if word in _NOT_UNITS:
                return None
            if _singular(word.lower()) not in _NOTHING:
                unknown.add(_singular(word.lower()))
            last = _singular(word.lower())
        elif word not in _NOTHING and word not in ".,()":
            return None
    if unknown and not (telling or in_text):
        return None
    words = frozenset(_singular(word.lower()) for word in re.findall("[A-Za-z]+", text))
    if unknown:
        return Unit(words=words, known=False)
    return Unit(factor, tuple(sorted((name, p) for name, p in dimension.items() if p)), words)


def _known(word: str) -> str | None:
    for spelling in (word, word.lower(), _singular(word.lower())):
        if spelling in _UNITS and (len(spelling) > 1 or spelling == word):
            return spelling
    return None


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
