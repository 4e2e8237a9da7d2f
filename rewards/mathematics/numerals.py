"""Numerals that can be read in more than one way, or in another base."""

from __future__ import annotations

import re

_GROUPED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_GROUPED_OTHERWISE = re.compile(
    r"(?<![0-9.,])[1-9][0-9]{0,2}(?:(?: [0-9]{3})+(?![0-9]| [0-9])|(?:'[0-9]{3})+(?![0-9'])|(?:\.[0-9]{3}){2,}(?![0-9.,]))"
)
_DECIMAL_COMMA = re.compile(r"[-+]?(?:[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+),[0-9]+")
_CERTAIN_DECIMAL_COMMA = re.compile(r"[-+]?(?:0,[0-9]{2,}|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+)")
_BASE = re.compile(
    r"(?P<open>\(?)(?P<digits>[0-9A-Za-z]+)(?(open)\)?)\s*"
    r"(?:_\s*\{?\s*⟦?(?P<sub>[0-9]+|[a-z]+)⟧?\s*\}?|[(⟦ ]*base\s*(?P<base>[0-9]+|[a-z]+)[)⟧ ]*)"
)
_BASES = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "sixteen": 16,
    "twelve": 12,
}


def comma_readings(plain: str, gold: bool) -> list[str]:
    """A cleaned answer without commas within numbers, in the ways that it can be meant: 1,234 is a number or two, and
    2,74 is two numbers or a decimal.

    Args:
        plain: the answer.
        gold: whether it is the reference, in which a decimal comma is read only where it can be nothing else.
    """
    readings = []
    grouped = _GROUPED.sub(lambda m: m.group().replace(",", ""), plain) if "," in plain else plain
    grouped = _GROUPED_OTHERWISE.sub(lambda m: re.sub("[ '.]", "", m.group()), grouped)
    if _CERTAIN_DECIMAL_COMMA.fullmatch(plain.split("⟦")[0].strip()) or (not gold and _DECIMAL_COMMA.match(plain)):
        comma = _DECIMAL_COMMA.match(plain)
        if comma and grouped == plain:
            number = comma.group().replace(".", "").replace(",", ".")
            readings.append(number + plain[comma.end() :])
            if _CERTAIN_DECIMAL_COMMA.fullmatch(comma.group()):
                return readings
    readings.append(grouped)
    if grouped != plain and _may_be_list(plain):
        readings.append(plain)
    return readings


def _may_be_list(plain: str) -> bool:
    """Whether the groups of 1,234 may be numbers of their own. No one lists 1 and 000, or 5 twice."""
    items = plain.split(",")
    return all(re.fullmatch(r"-?[1-9][0-9]*", item) for item in items) and len(set(items)) == len(items)


def in_base(text: str) -> int | None:
    """The value of a numeral with its base, or None if the text is nothing else or it has digits that are none."""
    match = _BASE.fullmatch(text)
    if not match:
        return None
    name = match["sub"] or match["base"]
    base = int(name) if name.isdigit() else _BASES.get(name, 0)
    if not 2 <= base <= 36 or not (match["digits"].isupper() if base > 10 else match["digits"].isdigit()):
        return None
    try:
        return int(match["digits"], base)
    except ValueError:
        return None
