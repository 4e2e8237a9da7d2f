"""How keyboards, Unicode and LaTeX spell one and the same thing."""

from __future__ import annotations

_FUNCTIONS = (
    "sin cos tan sec csc cot sinh cosh tanh arcsin arccos arctan arccot arcsec arccsc asin acos atan arsinh arcosh artanh"
    " asinh acosh atanh log ln lg exp sqrt cbrt cis max min gcd lcm floor ceil abs det sgn sign"
)
_LETTERS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi omicron rho varrho sigma"
    " tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar"
)
_ALPHABET = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu"
    " nu xi omicron pi rho - sigma tau upsilon phi chi psi omega"  # in Unicode's order, with a final sigma
)

FUNCTIONS = frozenset(_FUNCTIONS.split())
"""Names of functions, as keyboards write them and as LaTeX's commands are called."""

GREEK = frozenset(_LETTERS.split())
"""Names of letters that stand for variables (so that pi is not among them)."""

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_MEANT = {  # in LaTeX: by characters
    "-": "−–—‐",
    r"\times ": "×",
    r"\cdot ": "·⋅∙",
    r"\div ": "÷",
    "/": "∕⁄",
    r"\sqrt ": "√",
    r"\sqrt[3]": "∛",
    r"\infty ": "∞",
    r"\pm ": "±",
    r"\mp ": "∓",
    r"\le ": "≤⩽",
    r"\ge ": "≥⩾",
    r"\neq ": "≠",
    r"\approx ": "≈",
    r"\in ": "∈",
    r"\cup ": "∪",
    r"\cap ": "∩",
    r"\setminus ": "∖",
    r"\emptyset ": "∅",
    r"\mathbb{R}": "ℝ",
    r"\mathbb{Z}": "ℤ",
    r"\mathbb{N}": "ℕ",
    r"\mathbb{Q}": "ℚ",
    r"\mathbb{C}": "ℂ",
    r"\langle ": "⟨〈",
    r"\rangle ": "⟩〉",
    r"\lor ": "∨",
    r"\land ": "∧",
    r"^\circ ": "°º",
    r"\ldots ": "…⋯",
    "'": "′’",
    '"': "“”",
    r"\Delta ": "∆",
    r"\angle ": "∠",
    "": "⟦⟧",
}

CHARACTERS = {character: latex for latex, characters in _MEANT.items() for character in characters}
for _i, _name in enumerate(_ALPHABET.split()):
    if _name != "-":
        CHARACTERS[chr(0x3B1 + _i)] = rf"\{_name} "
        CHARACTERS[chr(0x391 + _i)] = rf"\{_name.capitalize()} "

_COMMANDS = {  # what is meant: by commands
    r"\frac": r"\dfrac \tfrac \cfrac",
    r"\binom": r"\dbinom \tbinom",
    r"\le": r"\leq \leqslant",
    r"\ge": r"\geq \geqslant",
    r"\neq": r"\ne",
    "<": r"\lt",
    ">": r"\gt",
    r"\{": r"\lbrace",
    r"\}": r"\rbrace",
    "[": r"\lbrack",
    "]": r"\rbrack",
    "(": r"\lparen",
    ")": r"\rparen",
    "|": r"\vert \lvert \rvert \mid",
    r"\ldots": r"\dots \cdots \dotsc",
    r"\lor": r"\vee",
    r"\land": r"\wedge",
    r"\cup": r"\bigcup",
    r"\setminus": r"\smallsetminus \backslash",
    r"\emptyset": r"\varnothing",
    r"\approx": r"\simeq \cong",
    r"\cdot": r"\ast",
    r"^\circ": r"\degree",
    ":": r"\colon",
    r"\mathbb{R}": r"\R \Reals",
    r"\mathbb{Z}": r"\Z",
    r"\mathbb{N}": r"\N",
    r"\mathbb{Q}": r"\Q",
    "£": r"\pounds",
    "€": r"\euro",
    "¤": r"\textdollar",
    "'": r"\prime",
    r"\arsinh": r"\arcsinh",
    r"\arcosh": r"\arccosh",
    r"\artanh": r"\arctanh",
    " ": r"\thinspace \enspace \hfill \newline",
    "": (
        r"\left \right \mleft \mright \big \Big \bigg \Bigg \bigl \bigr \Bigl \Bigr \biggl \biggr"
        r" \displaystyle \textstyle \limits \nolimits \rm \bf \it \hline \cr \normalsize \large \Large"
    ),
}
COMMANDS = {command: meant for meant, commands in _COMMANDS.items() for command in commands.split()}
