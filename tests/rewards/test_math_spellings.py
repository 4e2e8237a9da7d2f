"""Which answers are equal: the spellings and the near misses of each kind, judged by the whole verifier."""

import pytest
from tokengym.rewards import MathAnswer

EQUAL = {
    "numbers": [
        ("1000000", "1'000'000"),
        ("1234567", "1.234.567"),
        ("1.5 million", "1500000"),
        (r"3\times10^8", "3 x 10^8"),
        (r"\frac{1}{3}", r"0.\bar{3}"),
        (r"\frac{1}{6}", r"0.1\dot{6}"),
        (r"\frac{1}{3}", "0.(3)"),
        (r"\frac{1}{6}", "0.1666..."),
        ("3.14", "3.14159..."),
        ("1/2", r"{1 \over 2}"),
        ("10", "5 choose 2"),
        ("120", r"\frac{10!}{7!3!}"),
        ("2", "cbrt(8)"),
        ("-2", r"\sqrt[3]{-8}"),
        ("42", r"\color{red}{42}"),
        ("42", r"\phantom{1}42"),
        ("42", r"\textcolor{blue}{42}"),
        (r"2^{1000000}", r"4^{500000}"),
        (r"2^{2^{100}}", r"4^{2^{99}}"),
        ("1/2^{1000000}", "2^{-1000000}"),
        ("3.25", "13/4 = 3.25"),
        ("13/4 = 3.25", "3.25"),
    ],
    "complex numbers": [
        ("2i", r"2\operatorname{cis}(\pi/2)"),
        (r"e^{i\pi/3}", r"\text{cis } 60^\circ"),
        (r"\frac{-1+i\sqrt{3}}{2}", "-1/2+sqrt(3)/2 i"),
        (r"\frac{\sqrt{3}}{2}i", r"\sqrt{3}/2i"),
    ],
    "expressions": [
        ("a^{b+c}", "a^b a^c"),
        ("6^x", "2^{x}3^{x}"),
        (r"(x+1)^{a+b}", r"(x+1)^a (x+1)^b"),
        (r"\binom{n}{2}", "n choose 2"),
    ],
    "equations": [
        ("5", "5 = x"),
        ("x = 5", "5 = x"),
        ("x = 5", "x - 5 = 0"),
        ("x - 1", "f^{-1}(x) = x-1"),
        ("f^{-1}(x) = x-1", "x - 1"),
        (r"\frac{dy}{dx} = 2x", "2x"),
    ],
    "sets and tuples": [
        ("{3, 4}", r"\{4, 3\}"),
        ("<1, 2, 3>", "(1, 2, 3)"),
        (r"\begin{pmatrix}1\\2\\3\end{pmatrix}", "[1,2,3]^T"),
        (r"(1, \pm 2)", "(1, 2), (1, -2)"),
        ("(1, 2), (-1, 2)", r"(\pm 1, 2)"),
        (r"\{\{1\},\{2\}\}", r"\{\{2\},\{1\}\}"),
        ("5, 6", r"5 \ \& \ 6"),
        ("100,200", "200, 100"),
    ],
    "intervals": [
        ("(1, 2)", "]1, 2["),
        ("[1, 2)", "[1;2["),
        (r"(-\infty, 1) \cup (2, \infty)", r"]-\infty, 1[ \cup ]2, \infty["),
        (r"[\sqrt[3]{2}, \sqrt[3]{5}]", r"[\sqrt[3]{2},\ \sqrt[3]{5}]"),
        (r"\{3\}\cup(5,\infty)", "x = 3 or x > 5"),
        (r"x<1\text{ or }x>2", r"(-\infty, 1) \text{ or } (2, \infty)"),
        (r"x<1\text{ or }x>2", r"x \in (-\infty, 1) \text{ or } x \in (2, \infty)"),
        ("x > 0", r"\mathbb{R}^+"),
        ("positive integers", r"\mathbb{Z}^{+}"),
        (r"x \not= 3", r"x \neq 3"),
    ],
    "units": [
        (r"2.5\text{ h}", r"150\text{ min}"),
        (r"5\,\text{sec}", "5 s"),
        (r"36\pi", r"36\pi\text{ cubic inches}"),
        (r"2\pi\text{ m}", r"200\pi\text{ cm}"),
        (r"9\pi", "9pi cm^2"),
        (r"60\ \frac{\text{km}}{\text{h}}", "60 km/h"),
        (r"9.8\ \frac{\text{m}}{\text{s}^2}", "9.8 m/s^2"),
        (r"9.8\,\mathrm{m\,s^{-2}}", "9.8 m/s^2"),
        (r"\text{5 cm}", "5 cm"),
        ("-5", r"-\$5"),
        ("0.50", r"\$.50"),
        ("100", "Rs. 100"),
        ("10 euros", "EUR 10"),
        (r"98.6^\circ\text{F}", "98.6 °F"),
        (r"20^\circ\text{C}", "20 degrees Celsius"),
    ],
    "texts": [
        (r"\text{Yes, it is}", "yes, it is"),
        ("HTH", r"\text{HTH}"),
        ("B", "(B) -5"),
        ("B", "(B) A man"),
    ],
}

DIFFERENT = {
    "numbers": [
        ("n!", "n"),
        ("n", "n!"),
        ("A", "A!"),
        ("1,000,000", "1,000"),
        ("1,000", "0, 1"),
        ("1,234,234", "1,234"),
        (r"0.\bar{3}", "0.3"),
        ("1/3", "0.3..."),
        ("0", "0.(3)"),
        (r"\sqrt[3]{-8}", "2"),
        (r"2^{1000000}", r"4^{1000000}"),
        (r"2^{1000000}", r"2^{1000001}"),
        ("1/2^{1000000}", "2^{1000000}"),
    ],
    "expressions": [("a^{b+c}", "a^b + a^c"), ("6^x", "2^{x}3^{2x}"), ("7 = 11a + c", "11a + c")],
    "equations": [("x = 2", "2x + 3 = 7"), ("x = 2", "3x = 6"), ("5 = x", "6")],
    "sets and tuples": [
        ("(1, 2)", "{1, 2}"),
        ("{1, 2}", "(1, 2)"),
        (r"\{\{1\},\{2\}\}", r"\{1, 2\}"),
        (r"(1, \pm 2)", "(1, 2)"),
        (r"(1, \pm 2)", "(1, 2, -2)"),
    ],
    "intervals": [
        ("[1, 2]", "]1, 2["),
        ("[1, 2)", "]1, 2]"),
        ("x = 3 or x > 5", "x > 5"),
        (r"\mathbb{R}^+", r"\mathbb{R}"),
        ("(1, 2) or (3, 4)", "(1, 2)"),
    ],
    "units": [
        (r"36\pi\text{ cm}^3", r"36\pi\text{ cm}^2"),
        (r"2\pi \text{ cm}", r"2\pi\text{ m}"),
        (r"60\ \frac{\text{km}}{\text{h}}", r"60\ \frac{\text{m}}{\text{h}}"),
        (r"5\text{ min}", r"5\text{ sec}"),
        ("f", r"f \text{ is even}"),
        (r"\$5", "5%"),
        (r"5\%", "5 cm"),
        (r"-\$5", "5"),
        ("20°C", "20 degrees Fahrenheit"),
    ],
    "texts and choices": [
        ("HTH", "HHT"),
        ("IV", "VI"),
        ("x", "X"),
        ("A", "(A) or B"),
        ("A", "A. or B"),
        ("A", "(A) and B"),
        ("A", "A) / B"),
        ("A", "(A) B C D"),
        ("c", "(c) - 1"),
        ("a", "[a] + 3"),
        ("d", "(d) / 2"),
        ("b", "(b) = 2"),
        ("b", "(b) ^ 2"),
        ("a", "(a)!"),
    ],
}


@pytest.fixture(scope="module")
def verdicts():
    pairs = [pair for table in (EQUAL, DIFFERENT) for group in table.values() for pair in group]
    verifier = MathAnswer(timeout=60)
    scores = verifier.compare(gold=[gold for gold, _ in pairs], prediction=[pred for _, pred in pairs])
    return {pair: score.value for pair, score in zip(pairs, scores)}


@pytest.mark.parametrize("pair", [pair for group in EQUAL.values() for pair in group], ids=" | ".join)
def test_equal(verdicts, pair):
    assert verdicts[pair] == 1.0


@pytest.mark.parametrize("pair", [pair for group in DIFFERENT.values() for pair in group], ids=" | ".join)
def test_different(verdicts, pair):
    assert verdicts[pair] == 0.0
