"""Reading an answer: from its text to its form (`forms`)."""

from __future__ import annotations

import functools
import operator
import re
from dataclasses import dataclass, field, replace

import sympy
from sympy import Symbol

from .expressions import Reading, Unreadable, read_expression
from .forms import FLIPPED, Answer, Bracketed, Chain, Clock, Dots, Equation, Listing, Quantity, Ratio, Region, Text
from .notation import bare, clean, closing, is_deep, split, tokens, words
from .numerals import comma_readings, in_base
from .spellings import FUNCTIONS
from .units import take_unit

_SETS = {
    r"\mathbb{R}": sympy.S.Reals,
    r"\mathbb{Z}": sympy.S.Integers,
    r"\mathbb{N}": sympy.S.Naturals,
    r"\mathbb{Q}": sympy.S.Rationals,
    r"\mathbb{C}": sympy.S.Complexes,
    r"\mathbb{R}^+": sympy.Interval.open(0, sympy.oo),
    r"\mathbb{R}^-": sympy.Interval.open(-sympy.oo, 0),
    r"\mathbb{Z}^+": sympy.S.Naturals,
    r"\emptyset": sympy.S.EmptySet,
    r"\{\}": sympy.S.EmptySet,
    "all real numbers": sympy.S.Reals,
    "all reals": sympy.S.Reals,
    "all integers": sympy.S.Integers,
    "positive real numbers": sympy.Interval.open(0, sympy.oo),
    "all positive real numbers": sympy.Interval.open(0, sympy.oo),
    "positive integers": sympy.S.Naturals,
    "all positive integers": sympy.S.Naturals,
    "no solution": sympy.S.EmptySet,
    "no solutions": sympy.S.EmptySet,
    "no real solution": sympy.S.EmptySet,
    "no real solutions": sympy.S.EmptySet,
    "empty set": sympy.S.EmptySet,
}
_SIGNS = {
    "=": "=",
    "<": "<",
    ">": ">",
    r"\le": "<=",
    r"\ge": ">=",
    r"\neq": "!=",
    r"\approx": "~",
    r"\in": "in",
    r"\equiv": "mod",
}
_WORD = re.compile("[A-Za-z]{3,}|[Nn][Oo]")
_LETTERS = re.compile("[A-Z]{3,}|[IVXLC]{2,}")
_PERCENT = re.compile(
    r"\s*(?:\\?%|⟦\s*(?:percent|percentage|pct|per cent)\s*⟧|\b(?:percent|percentage|pct|per cent)\b)\s*$"
)
_SCALE = re.compile(
    r"(?<=[0-9])\s*(?:⟦\s*)?(dozen|hundred|thousand|million|billion|trillion)s?\b(?:\s*⟧)?", re.IGNORECASE
)
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_BUILDER = re.compile(
    r"\\\{(?P<name>\s*\\?[A-Za-z]+)\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||:)(?P<condition>.*)\\\}", re.DOTALL
)
_SUBSCRIPT = re.compile(r"_(?:\{[^{}]*\}|[A-Za-z0-9])")
_APPLICATION = re.compile(r"(?:[A-Za-z]'*(?:\^\{?-1\}?)?|⟦[^⟧]*⟧)\([^()]*\)|\\frac\{d[a-z]\}\{d[a-z]\}")
_CONSTANTS = {"e", "i", "pi", r"\pi", r"\infty"}
_CLOCK = re.compile(
    r"(?P<hour>[0-9]{1,2})\s*:\s*(?P<minute>[0-5][0-9])(?:\s*:\s*(?P<second>[0-5][0-9]))?"
    r"\s*(?:⟦?\s*(?P<half>[AaPp])[.]*\s*(?:[Mm][. ]*)?⟧?)?"
)
_WHOLE = re.compile(r"⟦([^⟧]*)⟧")
_SEPARATOR = re.compile(r"\s*(?:[,;]\s*(?:and\s+|or\s+)?|\band\b|\bor\b)\s*")
_TRANSPOSED = re.compile(r"(?<=[)\]])\s*\^\s*\{?\s*(?:T|\\top|\\intercal)\s*\}?$")
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")


@dataclass(frozen=True)
class Written:
    """An answer as it is written, and the ways to read it where a comma can be two things: 1,234 is a number or two,
    and 2,74 is two numbers or a decimal."""

    plain: str
    readings: tuple[Answer, ...] = field(compare=False)


def read(text: str, gold: bool) -> Written:
    """Read an answer.

    Args:
        text: the answer as it was written.
        gold: whether it is the reference, in which a decimal comma is read only where it can be nothing else.
    """
    if is_deep(text):
        return Written(text, (Text(words(text)),))
    plain = clean(text)
    return Written(plain, tuple(_read(reading) for reading in comma_readings(plain, gold)))


def _read(text: str) -> Answer:
    text = bare(text)
    if not text:
        return Text("")
    for spelling in (text.replace(" ", "").replace("^{+}", "^+").replace("^{-}", "^-"), words(text)):
        if spelling in _SETS:
            return Region(_SETS[spelling])
    if (whole := _WHOLE.fullmatch(text)) and len(parts := _SEPARATOR.split(whole[1])) > 1:
        return _flat([_read_item(f"⟦{part}⟧" if re.search("[A-Za-z]", part) else part) for part in parts if part])
    if len(groups := [part for part in split(text, ";") if part.strip()]) > 1:
        return Listing(tuple(_tuple_of_named(_read(group)) for group in groups))
    if len(cases := _cases(text)) > 1:
        return _flat(cases)
    alternatives = split(text, "or", r"\lor")
    if len(alternatives) > 1:
        read = [_read(part) for part in alternatives if part.strip(" ,")]
        regions = [_alternative(part) for part in read]
        if any(isinstance(part, Region) or _is_unbounded(part) for part in read) and all(regions):
            return _combined([region for region in regions if region], sympy.Union)
        return _flat(read)
    conjuncts = [part for part in split(text, "and", r"\land", "&", r"\&") if part.strip(" ,")]
    if len(conjuncts) > 1:
        read = [_read(part) for part in conjuncts]
        if all(isinstance(part, Region) and part.relation for part in read):
            return _combined([part for part in read if isinstance(part, Region)], sympy.Intersection)
        return _flat(read)
    items = [part for part in split(text, ",") if part.strip()]
    if len(items) > 1:
        return _flat([_read_item(part) for part in items])
    return _read_item(text)


def _flat(items: list[Answer]) -> Listing:
    flat: list[Answer] = []
    for item in items:
        flat.extend(item.items if isinstance(item, Listing) and not item.braces else [item])
    return Listing(tuple(flat))


def _alternative(answer: Answer) -> Region | None:
    """One of several sets of values: x > 5, (5, \\infty), or x = 3."""
    match answer:
        case Equation(_, Quantity(reading, None), name) if name and isinstance(reading.value, sympy.Expr):
            return Region(sympy.FiniteSet(reading.value), name, relation=True)
        case Region() | Bracketed():
            return as_region(answer)
        case _:
            return None


def _is_unbounded(answer: Answer) -> bool:
    """Whether it is an interval such as (5, \\infty), and no pair of numbers."""
    region = as_region(answer) if isinstance(answer, Bracketed) else None
    return region is not None and (region.points.inf.is_infinite or region.points.sup.is_infinite)


def _combined(regions: list[Region], how: type[sympy.Set]) -> Answer:
    names = {region.name for region in regions}
    if len(names) > 1:
        return Listing(tuple(regions))
    relation = any(region.relation for region in regions)
    return Region(how(*(region.points for region in regions)), names.pop(), not relation, relation)


def _tuple_of_named(answer: Answer) -> Answer:
    """p=5, q=2 as the pair (5, 2), in the order of the names."""
    if isinstance(answer, Listing) and not answer.braces:
        named = [item for item in answer.items if isinstance(item, Equation) and item.name]
        if len(named) == len(answer.items) == len({item.name for item in named}):
            named.sort(key=lambda item: item.name)
            return Bracketed(tuple(item.right for item in named), "(", ")")
        return Bracketed(answer.items, "(", ")")
    return answer


def _cases(text: str) -> list[Answer]:
    match = re.fullmatch(r"\\begin\s*\{(?:cases|aligned|array|gathered)\}(.*)\\end\s*\{[a-z]+\}", text, re.DOTALL)
    if not match or "=" not in match[1]:
        return []
    return [_read(part.replace("&", " ")) for part in re.split(r"\\\\", match[1]) if part.strip()]


def _read_item(text: str) -> Answer:
    """One answer, without commas that separate."""
    text = bare(text)
    if text == r"\ldots":
        return Dots()
    if match := _BUILDER.fullmatch(text):
        condition = _read(match["condition"])
        return replace(condition, relation=False) if isinstance(condition, Region) else Text(words(text))
    for read in (_relation, _set_operation, _enclosed, _signed, _ratio):
        if (answer := read(text)) is not None:
            return answer
    return _quantity(text)


# Relations


def _relation(text: str) -> Answer | None:
    sides, signs, start = [], [], 0
    for token, position, depth in tokens(text):
        if depth <= 0 and token in _SIGNS:
            sides.append(text[start:position])
            signs.append(_SIGNS[token])
            start = position + len(token)
    if not signs:
        return None
    sides.append(text[start:])
    if len(signs) == 1 and signs[0] in "=~" and not sides[0].strip():
        return _read(sides[1])
    if "~" in signs:  # x ≈ 11 gives the value; 1/3 ≈ 0.33 says again what is known exactly
        first = signs.index("~")
        if first == 0 and _name(sides[0]):
            return Equation(None, _read(sides[1]), _name(sides[0]), False)
        return _read("".join(side + sign for side, sign in zip(sides, [*signs[:first], ""])))
    if signs[0] == "in" and len(signs) == 1:
        inner = _read(sides[1])
        name = _name(sides[0])
        if isinstance(inner, Listing):
            return Equation(None, inner, name, False)
        region = as_region(inner)
        if region is not None:
            return replace(region, name=name, membership=True)
        return Text(words(text))
    if "mod" in signs or "in" in signs:
        return Text(words(text))
    if set(signs) == {"="}:
        if not sides[-1].strip():
            return _read(sides[0])
        if len(sides) == 2 and _name(sides[1]) and not _name(sides[0]):  # 5 = x
            sides.reverse()
        return Equation(_read(sides[0]), _read(sides[-1]), _name(sides[0]), len(sides) > 2)
    read = tuple(_read(side) for side in sides)
    return _solved(read, tuple(signs)) or Chain(read, tuple(signs))


def _name(text: str) -> str:
    """The text, if it is nothing but a name, without spaces; else nothing."""
    text = "".join(bare(text).split())
    rest = _APPLICATION.sub("f", _SUBSCRIPT.sub("", text))
    if not rest or re.search(r"[0-9+\-*^<>=!%]", rest) or rest in _CONSTANTS:
        return ""
    if any(
        command in rest for command in ("\\frac", "\\sqrt", "\\cdot", "\\times", *(f"\\{name}" for name in FUNCTIONS))
    ):
        return ""
    return text.replace("_{", "_").replace("}", "")


def _solved(sides: tuple[Answer, ...], signs: tuple[str, ...]) -> Region | None:
    """The set of real numbers that satisfy a chain of inequalities in one variable."""
    values = [side.reading.value for side in sides if isinstance(side, Quantity) and side.unit is None]
    if len(values) < len(sides) or any(isinstance(value, sympy.MatrixBase) for value in values):
        return None
    symbols = set().union(*(value.free_symbols for value in values))
    if len(symbols) != 1 or "(" in (symbol := symbols.pop()).name:
        return None
    points: sympy.Set = sympy.S.Reals
    try:
        for left, sign, right in zip(values, signs, values[1:]):
            points = points.intersect(_solution(left, sign, right, symbol))
    except (ValueError, TypeError, NotImplementedError):  # what SymPy says to x > i
        return None
    return Region(points, symbol.name, relation=True)


def _solution(left: sympy.Expr, sign: str, right: sympy.Expr, symbol: Symbol) -> sympy.Set:
    if right == symbol:
        left, sign, right = right, FLIPPED[sign], left
    if left == symbol and symbol not in right.free_symbols:
        match sign:
            case "<":
                return sympy.Interval.open(-sympy.oo, right)
            case "<=":
                return sympy.Interval(-sympy.oo, right)
            case ">":
                return sympy.Interval.open(right, sympy.oo)
            case ">=":
                return sympy.Interval(right, sympy.oo)
            case "!=":
                return sympy.Complement(sympy.S.Reals, sympy.FiniteSet(right))
            case _:
                return sympy.FiniteSet(right)
    relation = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "!=": sympy.Ne, "=": sympy.Eq}[sign](
        left, right
    )
    if relation in (sympy.true, sympy.false):
        return sympy.S.Reals if relation is sympy.true else sympy.S.EmptySet
    return sympy.solveset(relation, symbol, sympy.S.Reals)


# Sets and brackets


def _set_operation(text: str) -> Answer | None:
    for signs, how in (
        ((r"\setminus",), operator.sub),
        ((r"\cup", "U"), operator.or_),
        ((r"\cap",), operator.and_),
    ):
        parts = split(text, *signs)
        if len(parts) > 1 and all(part.strip() for part in parts):
            regions = [as_region(_read(part)) for part in parts]
            if any(region is None for region in regions):
                return None if "U" in text else Text(words(text))
            points = [region.points for region in regions if region]
            return Region(functools.reduce(how, points))
    parts = split(text, "-")
    if len(parts) == 2 and parts[0].strip() in _SETS and (region := as_region(_read(parts[1]))):
        return Region(_SETS[parts[0].strip()] - region.points)
    return None


def as_region(answer: Answer) -> Region | None:
    """The set of numbers that an answer stands for, if it can stand for one."""
    match answer:
        case Region():
            return answer
        case Bracketed((Quantity(a), Quantity(b)), left, right) if left in "([" and right in ")]":
            try:
                points = sympy.Interval(a.value, b.value, left == "(", right == ")")
            except (ValueError, TypeError, NotImplementedError):  # what SymPy says to ends that have no order
                return None
            return Region(points) if isinstance(points, sympy.Interval) else None  # (3, 1) is a tuple
        case Listing(items, True) if all(isinstance(item, Quantity) and item.unit is None for item in items):
            return Region(sympy.FiniteSet(*(item.reading.value for item in items if isinstance(item, Quantity))))
        case _:
            return None


def _enclosed(text: str) -> Answer | None:
    """(…), […], [0, 1), \\{…\\} or ⟨…⟩ around the whole."""
    text = _TRANSPOSED.sub("", text)
    left = next((mark for mark in (r"\{", r"\langle", "(", "[", "<") if text.startswith(mark)), "")
    end = len(text) - 1 if left == "<" and text.endswith(">") else closing(text, 0) if left else -1
    right = text[end:] if end > 0 else ""
    if right.strip() not in (r"\}", r"\rangle", ")", "]", ">"):
        return None
    inner = text[len(left) : end]
    if left == r"\{":
        whole = _read(inner) if inner.strip() else Listing(())
        return Listing(whole.items if isinstance(whole, Listing) else (whole,), True)
    if left != "[" and _PLUS_MINUS.search(inner) and len(split(inner, ",", ";")) > 1:  # (1, \pm 2) is two points
        return _signed(text)
    parts = [part for group in split(inner, ";") for part in split(group, ",")]
    if len(parts) < 2 or not all(part.strip() for part in parts):
        whole = _read(inner)
        # Brackets around a single thing only group, unless it is an expression, where they may matter: (2)!
        return whole if not isinstance(whole, Quantity | Text) else None
    items = _flat([_read_item(part) for part in parts]).items
    if left in (r"\langle", "<"):
        left, right = "⟨", "⟩"
    return Bracketed(items, left, right.strip())


def _signed(text: str) -> Answer | None:
    if not _PLUS_MINUS.search(text):
        return None
    upper = _PLUS_MINUS.sub(lambda m: "+" if m.group() == r"\pm" else "-", text)
    lower = _PLUS_MINUS.sub(lambda m: "-" if m.group() == r"\pm" else "+", text)
    return _flat([_read_item(upper), _read_item(lower)])


def _ratio(text: str) -> Answer | None:
    clock = None
    if match := _CLOCK.fullmatch(text):
        numbers = tuple(int(match[name]) for name in ("hour", "minute", "second") if match[name])
        clock = Clock(numbers, (match["half"] or "").lower())
        text = text[: match.end("second") if match["second"] else match.end("minute")]
    terms = split(text, ":")
    if len(terms) < 2 or not all(term.strip() for term in terms):
        return None
    return Ratio(tuple(_read_item(term) for term in terms), clock)


# Numbers and expressions


def _quantity(text: str) -> Answer:
    if (numeral := in_base(text)) is not None:
        return Quantity(Reading(sympy.Integer(numeral), False, None))
    if _LETTERS.fullmatch(text):  # HTH is not HHT
        return Text(words(text))
    number = _PERCENT.sub("", text)
    percent = number != text
    scaled = _SCALE.search(number)
    if scaled and len(_SCALE.findall(number)) == 1:
        number = number[: scaled.start()] + " " + number[scaled.end() :]
    unit = None
    if not percent:
        number, unit = take_unit(number.strip())
    for candidate, behind in ((number, unit), (_PERCENT.sub("", text), None)):
        try:
            reading = read_expression(candidate.strip())
        except (Unreadable, RecursionError, OverflowError, ValueError):
            continue
        if scaled:
            factor = _SCALES[scaled[1].lower()]
            reading = reading.scaled(sympy.Integer(factor))
        return Quantity(reading, behind, percent, text.casefold() if _WORD.fullmatch(text) else "")
    return Text(words(text))
