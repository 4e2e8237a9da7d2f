r"""The text of an answer in one plain notation, and how to take it apart.

What models and data sets write for one and the same answer differs in ways that mean nothing: `\dfrac`, `\tfrac` and
`\frac`; `\left(` and `(`; `$…$`, `\(…\)` and nothing; ½ and `\frac{1}{2}`; π, `pi` and `\pi`. `clean` takes these away.
What is left is LaTeX with a few liberties: words in text groups (`\text{cm}`) stand in ⟦…⟧, a dollar that is money is ¤.

Everything here takes time linear in the text, or nearly so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from .spellings import CHARACTERS, COMMANDS, FUNCTIONS, SUBSCRIPTS, SUPERSCRIPTS

_CHARACTER = re.compile("|".join(map(re.escape, CHARACTERS)))
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=begin|end|d?frac|sqrt|left|right|le|ge|pi|text|boxed|infty|cup|circ|times|cdot|pm)"
)
_SPACES = re.compile(r"(?<!\\)(?:\\[ ,;:>/]|\\q?quad|\\!\s*)|~")
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])(?:\\[ ,;:!]|~)\s*(?=[0-9]{3}(?![0-9]))")
_BRACED_COMMA = re.compile(r"\s*\{\s*,\s*\}\s*")
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]")
_DOTS = re.compile(r"\.{3,}")
_UNIT_LETTERS = frozenset("mgshLlNJWVK")
_TEXT_GROUP = re.compile(
    r"\\(?:text(?:rm|bf|it|sf|tt|normal|up|sc)?|mbox|hbox|fbox|math(?:rm|bf|it|sf|tt|cal|scr|frak)|operatorname\*?|boldsymbol|bm|emph)"
    r"\s*\{((?:[^{}]|\^\{[^{}]*\})*)\}"
)
_UNSEEN = re.compile(r"\\[hv]?phantom\s*\{[^{}]*\}|\\(?:text)?color\s*\{[^{}]*\}")
_RATE = re.compile(
    r"\\[dt]?frac\s*\{\s*(\\(?:text|mathrm)\s*\{[^{}]*\}(?:\^\{?[0-9]\}?)?)\s*\}"
    r"\s*\{\s*(\\(?:text|mathrm)\s*\{[^{}]*\}(?:\^\{?[0-9]\}?)?)\s*\}"
)
_COUNTED = re.compile(r"([-+]?[0-9][0-9.,/]*)\s+([A-Za-z][^0-9,]*)")
_JOINING = re.compile(r"(?:and|or|to)\b")
_ANGLED = re.compile(r"\s*<([^<>=,]*,[^<>=]*)>\s*")
_POWER_OF_TEN = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)")
_NEGATED = re.compile(r"\\not\s*=")
_CHOOSE = re.compile(r"(?<![\\A-Za-z])choose(?![A-Za-z])")
_REPEATING = (
    re.compile(r"(?<![0-9.])([0-9]+\.[0-9]{0,9}?)([0-9]{1,9}?)\2{2,99}\s?\\ldots"),  # 0.1666...
    re.compile(r"(?<![0-9.])([0-9]+\.[0-9]*)\\(?:bar|dot)\s*\{?([0-9]+)\}?"),
    re.compile(r"(?<![0-9.])([0-9]+\.)\(([0-9]+)\)"),
)
_GOING_ON = re.compile(r"(?<![0-9.])([0-9]+\.[0-9]+)\s*\\ldots")
# ]1, 2[ is (1, 2). All pairs of brackets are looked at, so that [1, 2], [3, 4] is nothing of the kind.
_SIDE = r"\s*[^\s\[\](),;][^\[\](),;]*"
_FACING = re.compile(rf"(\[|(?:^|(?<=[\s(,=])|(?<=\\cup)|(?<=\\in))\])({_SIDE}[,;]{_SIDE})([\[\]])")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_COMPARED = (
    ("<=", r"\le "),
    (">=", r"\ge "),
    ("=<", r"\le "),
    ("!=", r"\neq "),
    ("=/=", r"\neq "),
    ("==", "="),
    ("~=", r"\approx "),
)
_MODULUS = re.compile(r"(?:\\pmod|\(\s*(?:\\mod|mod|⟦mod⟧))\s*\{?\s*(\w+)\s*\}?\s*\)?")
_MIXED = re.compile(r"(?<![0-9.,}^_])([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)(?![0-9.])")
_NAME = re.compile(r"[A-Za-z]")
_QUOTED = re.compile(r"(?P<mark>\"|'|`|\*\*|\*)(?P<inner>[^\"'`*]+)(?P=mark)[.,]?", re.DOTALL)


MAX_DEPTH = 60

_BRACKET = re.compile(r"[()\[\]{}]")


def clean(text: str) -> str:
    """The answer in one plain notation: see the module."""
    text = _characters(text).strip()
    while len(text) > 2 and (mark := _QUOTED.fullmatch(text)):
        text = mark.group("inner").strip()
    if _DOUBLED.search(text):  # escaped twice, as in JSON that was never decoded
        text = text.replace("\\\\", "\\")
    text = text.replace(r"\$", "¤")
    text = text.replace("$", "¤" if text.count("$") == 1 else " ")
    if angled := _ANGLED.fullmatch(text):
        text = rf"\langle {angled[1]}\rangle "
    text = _DOTS.sub(r"\\ldots ", _DELIMITERS.sub(" ", text))
    text = _RATE.sub(_rate, _UNSEEN.sub("", text))
    text = _BRACED_COMMA.sub(",", text)
    text = _BETWEEN_DIGITS.sub("", text)
    text = _SPACES.sub(lambda m: "" if m.group()[1:2] == "!" else " ", text)
    text = _BOX.sub("", text)
    for _ in range(3):  # groups within groups
        text, found = _TEXT_GROUP.subn(_text_group, text)
        if not found:
            break
    text = _COMMAND.sub(lambda m: COMMANDS.get(m.group(), m.group()), text)
    for written, meant in _COMPARED:
        text = text.replace(written, meant)
    text = _POWER_OF_TEN.sub(r"\\times ", _NEGATED.sub(r"\\neq ", text))
    text = _MODULUS.sub(r" mod \1 ", _CHOOSE.sub(r"\\choose ", text))
    text = _MIXED.sub(r"(\1+\2/\3)", text)
    for repeating in _REPEATING:
        text = repeating.sub(r"\1\\overline{\2}", text)
    text = _GOING_ON.sub(r"\1", text)
    text = _FACING.sub(_facing, text)
    return bare(text)


def _facing(match: re.Match[str]) -> str:
    left, inner, right = match.groups()
    return f"{'[' if left == '[' else '('}{inner}{']' if right == ']' else ')'}"


def _rate(match: re.Match[str]) -> str:
    r"""\frac{\text{km}}{\text{h}} as \text{km/h}."""
    return "⟦{}/{}⟧".format(*(_TEXT_GROUP.sub(lambda m: m[1].strip(), side) for side in match.groups()))


def is_deep(text: str) -> bool:
    """Whether brackets stand within brackets deeper than answers need, and than it is safe to follow."""
    level = 0
    for mark in _BRACKET.finditer(text):
        level += 1 if mark.group() in "([{" else -1
        if level > MAX_DEPTH:
            return True
    return False


def bare(text: str) -> str:
    """Without what stands around it and means nothing: spaces, a full stop, braces that only group."""
    while True:
        before = text
        text = text.strip()
        text = text.rstrip(".,;:") if not text.endswith(r"\,") else text[:-2]
        if text.endswith("\\"):
            text = text[:-1]
        if text.startswith("{") and text.endswith("}") and closing(text, 0) == len(text) - 1:
            if len(split(text[1:-1], ",")) > 1:  # {1, 2} as keyboards write a set
                return rf"\{{{text[1:-1]}\}}"
            text = text[1:-1]
        if text == before:
            return text


def words(text: str) -> str:
    """A cleaned answer as words: without marks of text groups and LaTeX's spaces, regardless of case."""
    text = text.replace("⟦", " ").replace("⟧", " ").replace("\\", " ")
    return " ".join(text.casefold().split()).strip(' .,;:!"')


def _characters(text: str) -> str:
    if text.isascii():
        return "".join(c if c >= " " or c in "\n\t" else " " for c in text) if not text.isprintable() else text
    text = _RAISED.sub(lambda m: "^{" + m.group().translate(SUPERSCRIPTS) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + m.group().translate(SUBSCRIPTS) + "}", text)
    text = _CHARACTER.sub(lambda m: CHARACTERS[m.group()], text)
    return "".join(map(_character, text))


def _character(c: str) -> str:
    if c < "\x7f":
        return c if c >= " " or c in "\n\t" else " "
    kind = unicodedata.category(c)
    if kind == "Nd":
        return str(unicodedata.digit(c))
    if kind in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp"):
        return " " if kind.startswith("Z") else ""
    plain = unicodedata.normalize("NFKC", c)
    if "⁄" in plain:  # ½
        top, _, bottom = plain.partition("⁄")
        return rf"\frac{{{top}}}{{{bottom}}}" if bottom else plain
    return plain


def _text_group(match: re.Match[str]) -> str:
    inner = match.group(1).strip()
    if not inner:
        return " "
    before, behind = match.string[: match.start()].rstrip(), match.string[match.end() :].lstrip()[:1]
    counts = before[-1:] in {*"0123456789)}]"} or before.endswith(r"\pi")
    if inner in FUNCTIONS and not (counts and inner in ("min", "sec") and behind in {"", *".,;$^/"}):
        return rf"\{inner} "
    if (counted := _COUNTED.fullmatch(inner)) and not _JOINING.match(counted[2]):
        return f"{counted[1]} ⟦{counted[2]}⟧"
    if inner in _UNIT_LETTERS and counts:
        return f"⟦{inner}⟧"
    if len(inner) == 1 or (inner[0] == "\\" and inner[1:].isalpha()) or not _NAME.search(inner):
        return f" {inner} " if inner.isalpha() else inner
    return f"⟦{inner}⟧"


# Taking apart

_TOKEN = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+|\\.|⟦[^⟧]*⟧|[A-Za-z]+|.", re.DOTALL)
_OPENING = {"(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"}
_CLOSING = {")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"}


def tokens(text: str) -> Iterator[tuple[str, int, int]]:
    """The tokens of a cleaned answer: text, position, and how deep in brackets it stands (a bracket itself: as deep as
    what it encloses)."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPENING or token.startswith(r"\begin"):
            depth += 1
        yield token, match.start(), depth
        if token in _CLOSING or token.startswith(r"\end"):
            depth -= 1


def split(text: str, *separators: str) -> list[str]:
    """The parts of a text between separators that stand in no brackets. Words in text groups separate, too, if they are
    alone in them: ⟦or⟧."""
    parts, start = [], 0
    for token, position, depth in tokens(text):
        if depth <= 0 and (token in separators or (token[0] == "⟦" and token[1:-1].strip().lower() in separators)):
            parts.append(text[start:position])
            start = position + len(token)
    parts.append(text[start:])
    return parts


def closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes, or -1."""
    level = 0
    for match in _TOKEN.finditer(text, start):
        token = match.group()
        if token in _OPENING:
            level += 1
        elif token in _CLOSING:
            level -= 1
            if level == 0:
                return match.start()
    return -1
