r"""Where in a text is its final answer?

In time linear in the text: what models write includes a hundred thousand open boxes.
"""

from __future__ import annotations

import re

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BRACE = re.compile(r"\\[{}]|[{}]")
_MARKED = re.compile(r"<answer>|</answer>|^[ \t]*####(?!#)|final\s+answer(?:\s+is|\s*:)", re.IGNORECASE | re.MULTILINE)
_STATED = re.compile(
    r"\banswers?\b(?:\s+(?:is|are|was|would\s+be|must\s+be|should\s+be|equals)\b\s*:?|\s*[:=])", re.IGNORECASE
)
_STATED_CHOICE = re.compile(
    r"\b(?:correct|right|best)\s+(?:option|choice)\s+is\b|\b(?:option|choice)\s+(?=\(?[A-J]\)?\s+is\s+correct)",
    re.IGNORECASE,
)
_END = re.compile(r"\n\s*\n|\.(?=\s|\*|$)|\s+I hope\b|\n(?=\s*[A-Z*#<])|</?[a-z]+>")
_REASON = re.compile(
    r",?\s+(?:because|since|which|where|so|when|as|given|obtained|is\s+correct|is\s+the)\b|\s*[.,;]\s*$|\s+(?=\.\s*$)"
)
_FORMULA = re.compile(r"\$\$[^$]+\$\$|\$[^$\n]+\$|\\\((?:(?!\\[()])[^\n])+\\\)|\\\[(?:(?!\\[\[\]]).)+\\\]", re.DOTALL)
_AMONG = re.compile(r"\s*(?:,?\s*and|,?\s*or|,|;)?\s*")
# Between two boxes that are one answer: separators, names and labels, but no sentence.
_LABELS = r"(?:[\s,;&:.]|and|or|for|part|case|\([a-z0-9]{1,3}\))"
_JOINED = re.compile(
    rf"""(?:{_LABELS} | \$ | \\[()\[\],;\ ] | \\q?quad | \\(?:text|mbox)\s*\{{{_LABELS}*\}}
        | [A-Za-z](?:_[0-9a-z]|_\{{[^{{}}]*\}})?\s*=)*""",
    re.VERBOSE,
)
_MAX_JOINED = 70
_MAX_SENTENCE = 2000
_LEAD = re.compile(r"(?:[\s:*_\"']|\\\")*")
_NUMBER = re.compile(
    r"(?<![\w.,^_\\])-?[$€£¥]?(?:[0-9][0-9.,/^*+()\s-]*[0-9)]|\.?[0-9]+)(?:\s*\\?%|\s*(?:percent|percentage|pct)\b)?|(?<=[€£¥$])[0-9][0-9.,]*"
)
_PROSE = re.compile(r"[A-Za-z]{3,}|\b(?:[Ii]s|[Ii]t|[Ss]o|[Ww]e|be|to|as|he|of)\b")
_MATHEMATICAL = (
    "sqrt frac dfrac tfrac infinity infty alpha beta gamma theta degrees degree percent percentage pct mph text mathrm left"
    " right begin end pmatrix bmatrix matrix cases array cdot times boxed sin cos tan sec csc cot sinh cosh tanh arcsin"
    " arccos arctan log exp max min gcd lcm and"
)
_NO_PROSE = frozenset(_MATHEMATICAL.split())
_COMMAND = re.compile(r"\\[A-Za-z]+|\\(?:text|mathrm|mbox)[a-z]*\s*\{[^{}]*\}")


def find_answer(text: str, strict: bool = True, numbers: bool = True) -> str | None:
    r"""The final answer that a text gives, or None.

    The last of these counts:

    * `\boxed{…}` or `\fbox{…}` whose braces close (of boxes within boxes, the innermost). Boxes that only "," or "and"
      stand between are one answer: `\boxed{1} and \boxed{2}` is "1, 2", so that no one boxes all that comes to mind;
    * `<answer>…</answer>`, and what stands on a line after `####`;
    * "final answer is …" or "Final Answer: …", if a formula, a number or a choice follows.

    Without any of them: the last "the answer is …", "answer: …" or "the correct option is …", to the end of its sentence.

    Args:
        text: what the policy wrote.
        strict: whether one of these forms is needed. If not, a short text that is nothing but an answer is one, or else
            the last formula or number.
        numbers: whether, where not strict, a number outside of any formula counts.
    """
    start, answer = _last_box(text)
    for mark in reversed(_last_marks(text)):
        if mark.start() < start:
            break
        marked = _marked(text, mark)
        if marked:
            answer = _last_box(marked)[1] or marked
            break
    if answer is None:
        last = None
        for pattern in (_STATED, _STATED_CHOICE):
            for found in pattern.finditer(text):
                last = found if last is None or found.start() > last.start() else last
        answer = _sentence(text, last.end()) if last else None
        if answer is not None and not strict and _has_prose(answer):
            answer = _loose(answer, numbers) or answer
    if answer is None and not strict:
        answer = _loose(text, numbers)
    return answer.strip() if answer is not None else None


def _last_box(text: str) -> tuple[int, str | None]:
    """Where the last box whose braces close stands, and its content; with those before it that belong to it."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return -1, None
    # Tried first: that the last one closes, which spares a look at all braces of the text.
    last, inner = boxes[-1].span()
    end = _closing(text, inner)
    if end < 0:
        closed = _closed(text)
        if not closed:
            return -1, None
        last = max(closed)
        inner, end = closed[last]
    contents, first = [text[inner:end].strip()], last
    for before in reversed(boxes):
        if before.start() >= first:
            continue
        close = _closing(text, before.end(), first)
        between = text[close + 1 : first] if close >= 0 else None
        if between is None or len(between) > _MAX_JOINED or "\n\n" in between or not _JOINED.fullmatch(between):
            break
        content = text[before.end() : close].strip()
        first = before.start()
        if content != contents[-1]:
            contents.append(content)
    return last, ", ".join(reversed(contents))


def _closing(text: str, start: int, limit: int | None = None) -> int:
    """Where the brace that is open at `start` closes, or -1."""
    level = 1
    for mark in _BRACE.finditer(text, start, len(text) if limit is None else limit):
        token = mark.group()
        if token == "{":
            level += 1
        elif token == "}":
            level -= 1
            if not level:
                return mark.start()
    return -1


def _closed(text: str) -> dict[int, tuple[int, int]]:
    """All boxes whose braces close: where each starts, where its content starts, and where it ends. In one pass."""
    starts = {match.end() - 1: match.start() for match in _BOX.finditer(text)}
    opened: list[int] = []
    closed = {}
    for mark in _BRACE.finditer(text):
        if mark.group() == "{":
            opened.append(mark.start())
        elif mark.group() == "}" and opened:
            brace = opened.pop()
            if brace in starts:
                closed[starts[brace]] = brace + 1, mark.start()
    return closed


def _last_marks(text: str) -> list[re.Match[str]]:
    return list(_MARKED.finditer(text))[-6:]


def _marked(text: str, mark: re.Match[str]) -> str | None:
    token = mark.group().lower()
    if token == "</answer>":
        start = text.rfind("<answer>", 0, mark.start())
        return text[start + len("<answer>") : mark.start()].strip() if start >= 0 else None
    if token == "<answer>":
        return None  # it does not close
    if token.endswith("####"):
        line = text[mark.end() :].partition("\n")[0].strip()
        return line or None
    content = _sentence(text, mark.end())
    plain = content and (
        _FORMULA.match(content) or content[0] in "-+.\\$€£¥(" or content[0].isdigit() or len(content) == 1
    )
    return content if plain else None


def _sentence(text: str, start: int) -> str | None:
    """The formula that follows, or all to the end of the sentence or to where it begins to give reasons."""
    content = text[start : start + _MAX_SENTENCE]
    lead = _LEAD.match(content)
    content = content[lead.end() :] if lead else content
    if formula := _FORMULA.match(content):
        end = formula.end()
        while (between := _AMONG.match(content, end)) and between.group().strip():
            following = _FORMULA.match(content, between.end())
            if following is None:
                break
            end = following.end()
        return content[:end]
    for end in (_END, _REASON):
        if found := end.search(content):
            content = content[: found.start()]
    return content.strip(" *_\"'\n\t").rstrip("\\.,; *") or None


def _loose(text: str, numbers: bool) -> str | None:
    """The text, if it is an answer itself, or else the last formula or number in it."""
    stripped = text.strip()
    short = len(stripped) <= 300
    if short and stripped and not _has_prose(stripped):
        return stripped
    outside = _FORMULA.sub(lambda m: " " * len(m.group()), text)
    formulas = list(_FORMULA.finditer(text))
    found = formulas[-1:] + (list(_NUMBER.finditer(outside))[-1:] if numbers else [])
    last = max(found, key=lambda match: match.end(), default=None)
    if last is None:
        return stripped if short and stripped and numbers else None
    if not formulas or last is not formulas[-1]:
        return last.group().strip()
    start = last.start()
    for before in reversed(formulas[:-1]):
        between = text[before.end() : start]
        if len(between) > 12 or not between.strip() or not _AMONG.fullmatch(between):
            break
        start = before.start()
    return text[start : last.end()]


def _has_prose(text: str) -> bool:
    """Whether there are words in it that belong to no answer."""
    rest = _COMMAND.sub(" ", _FORMULA.sub(" ", text))
    return any(word.lower() not in _NO_PROSE for word in _PROSE.findall(rest))
