"""fast_match: exact, and never a guess."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokengym.rewards.fast_match import MAX_LENGTH, fast_match


@pytest.mark.parametrize(
    ("gold", "pred", "expected"),
    [
        ("18", "18", True),
        ("18", "19", False),
        ("18", "-18", False),
        ("073", "73", True),
        ("$18$", " 18 ", True),
        ("1,234", "1234", True),
        ("1,234,567.50", "1234567.5", True),
        ("1/2", "0.5", True),
        (r"\frac{1}{2}", ".5", True),
        (r"-\frac{1}{2}", r"\dfrac{-2}{4}", True),
        ("0.5", r"\tfrac{28}{50}", False),
        ("5", "5.001", False),
        ("1/3", "0.33333", False),
        ("1/3", "0.33333334", None),
        ("5", "5.000001", None),
        ("14.0", "14.000001", None),
        ("0.333333", "1/3", None),
        ("0.3333333", "1/3", True),
        ("16386.17", "16386.18", None),
        ("3.14", "3.14159", None),
        ("3.14", "3.15", False),
        ("123456789012345678901", "123456789012345678902", False),
    ],
)
def test_cases(gold, pred, expected):
    assert fast_match(gold, pred) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        ".",
        "5.",
        "+5",
        "x",
        "x=5",
        "1e5",
        "1 234",
        "12,34",
        "0,123",
        "1,2345",
        "1/0",
        "1/2/3",
        r"\frac12",
        "50%",
        "٣",
        "5 cm",
        "$",
        "$$",
        "(5)",
        "--5",
        "1" * (MAX_LENGTH + 1),
    ],
)
def test_everything_else_is_left_to_the_full_path(text):
    assert fast_match(text, "5") is None
    assert fast_match("5", text) is None


integers = st.integers(-(10**30), 10**30)
naturals = st.integers(1, 10**12)


@st.composite
def exact_literals(draw):
    """A literal without a decimal point, and its value."""
    n, d = draw(integers), draw(naturals)
    text, value = draw(
        st.sampled_from(
            [
                (f"{n}", Fraction(n)),
                (f"{n:,}", Fraction(n)),
                (f"{n}/{d}", Fraction(n, d)),
                (rf"\frac{{{n}}}{{{d}}}", Fraction(n, d)),
                (rf"-\frac{{{n}}}{{{d}}}", -Fraction(n, d)),
            ]
        )
    )
    return draw(st.sampled_from([text, f"${text}$", f" {text} "])), value


@st.composite
def decimal_literals(draw):
    """A decimal literal, its value and its number of places."""
    places, n = draw(st.integers(1, 9)), draw(st.integers(-(10**18), 10**18))
    whole, rest = divmod(abs(n), 10**places)
    return f"{'-' if n < 0 else ''}{whole}.{rest:0{places}}", Fraction(n, 10**places), places


@given(exact_literals(), exact_literals())
def test_exact_literals_are_equal_if_and_only_if_their_values_are(gold, pred):
    assert fast_match(gold[0], pred[0]) is (gold[1] == pred[1])
    assert fast_match(gold[0], gold[0]) is True


@given(exact_literals(), st.integers(1, 10**6))
def test_the_same_value_in_another_form(gold, factor):
    text, value = gold
    assert fast_match(text, rf"\frac{{{value.numerator * factor}}}{{{value.denominator * factor}}}") is True


@given(exact_literals(), decimal_literals())
def test_an_exact_gold_is_never_equal_to_another_value(gold, pred):
    assert (fast_match(gold[0], pred[0]) is True) == (gold[1] == pred[1])


@given(decimal_literals(), st.fractions())
def test_a_decimal_gold_is_equal_only_within_its_precision(gold, difference):
    text, value, places = gold
    pred = value + difference / 10**places
    verdict = fast_match(text, f"{pred.numerator}/{pred.denominator}")
    if verdict is True and pred != value:
        assert abs(pred - value) <= min(abs(value) / 10**6, Fraction(1, 2 * 10**places))
        assert value.denominator != 1
    if verdict is False and value.denominator != 1:
        assert abs(pred - value) > min(abs(value) / 10**6, Fraction(1, 2 * 10**places))


@given(st.text(alphabet=r"0123456789.,-/$ {}\frac", max_size=20))
def test_any_text_gets_an_answer(text):
    assert fast_match(text, text) in (True, None)
