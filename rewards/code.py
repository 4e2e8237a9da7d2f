"""Does the program do what its tests ask for?"""

from __future__ import annotations

import json
import math
import re
import textwrap
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from .base import Reward
from .episode import Episode, Score
from .sandbox import FunctionTest, Limits, Outcome, Sandbox, SandboxError, shared_sandbox

_PYTHON = ("python", "python3", "py")
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)")
_TAGS = ("code", "answer")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Columns:
    """Which columns of a dataset hold tests. `setup` may name columns that some rows lack."""

    tests: str | None = None
    cases: str | None = None
    entry_point: str | None = None
    setup: tuple[str, ...] = ()

    @property
    def required(self) -> list[str]:
        return [column for column in (self.tests, self.cases, self.entry_point) if column is not None]


# Known datasets by their columns; the first whose columns are all there is taken.
FORMATS = {
    "MBPP": Columns(tests="test_list", setup=("test_setup_code", "test_imports")),
    "HumanEval": Columns(tests="test", entry_point="entry_point", setup=("prompt",)),
    "APPS and TACO": Columns(cases="input_output"),
}


class PythonTests(Reward):
    """The share of its tests that a Python program passes, or whether it passes all; part "correct" says the latter.

    The program is what stands in the last fenced block of the completion that is marked as Python, or else in the last
    fenced block, or else between the last `<code>` or `<answer>` tags. It runs in a `Sandbox`, anew for every test,
    against tests from columns of the dataset:

    * *tests* that call its functions: a column with Python source, or a list of such (MBPP's `test_list`), each of
      which passes if it raises nothing. With an entry point, `check(entry_point)` is called (HumanEval). pytest's
      `test_…` functions and `from solution import …` work too.
    * *cases* for its stdin and stdout: `{"inputs": […], "outputs": […]}`, or a list of `{"input": …, "output": …}`, or
      either as JSON. A case passes if the program ends with exit code 0 and the outputs are the same.

    The program has no access to tests or expected outputs: cases are compared outside the sandbox, and tests run in
    another process, which hands it the arguments of one call at a time and takes results as values of Python's own types
    (see `Sandbox.test`). So it cannot pass by ending early, by printing what a test would print, by looking for the test,
    by redefining builtins or by objects that are equal to everything. What remains is to answer known arguments by heart:
    against that only tests help that the policy has not seen. What this costs: a function that changes its arguments in
    place changes copies; functions cannot be passed as arguments; results of types that are not Python's own can be
    called and asked for attributes, but equal no value of the test's.

    A program that runs into a limit has failed the test. The reward abstains where a row has no tests or broken ones,
    and where the sandbox fails.

    Args:
        tests, cases, entry_point, setup: columns of the dataset. Without `tests` and `cases`, the columns of MBPP,
            HumanEval, APPS and TACO are recognised. The setup is Python source (or a list of lines) that goes before
            both program and test.
        score: "fraction" of the tests that pass, or "all" for 1 or 0, which stops at the first that fails.
        compare: how outputs are compared. "tokens": word by word; where the expected word is a number with a decimal
            point or exponent, a number within `tolerance` of it (relative, or absolute below 1) is the same. "lines":
            line by line, but for spaces at the ends of lines and empty lines at the end.
        tolerance: see `compare`.
        limits: of every single test.
        max_seconds: wall-clock seconds for all tests of an episode; those that have not started by then have failed.
        workers: programs that run at a time; None for one per CPU core.
        preload: modules that programs find imported, see `Sandbox`.
        strict: a completion without a program of the above forms scores 0. If False, it is taken whole.
        unsafe: accept a host that allows no isolation, see `Sandbox`.

    Rewards with the same `workers`, `preload` and `unsafe` share a sandbox, which ends with the interpreter.

    Raises:
        ValueError: an argument is not one of those above.
    """

    def __init__(
        self,
        tests: str | None = None,
        cases: str | None = None,
        *,
        entry_point: str | None = None,
        setup: str | None = None,
        score: Literal["fraction", "all"] = "fraction",
        compare: Literal["tokens", "lines"] = "tokens",
        tolerance: float = 1e-6,
        limits: Limits | None = None,
        max_seconds: float = 60.0,
        workers: int | None = None,
        preload: Iterable[str] = (),
        strict: bool = True,
        unsafe: bool = False,
    ) -> None:
        if score not in ("fraction", "all"):
            raise ValueError(f'score is "fraction" or "all", not {score!r}')
        if compare not in ("tokens", "lines"):
            raise ValueError(f'compare is "tokens" or "lines", not {compare!r}')
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"tolerance must be finite and not negative, not {tolerance}")
        if not max_seconds > 0:
            raise ValueError(f"max_seconds must be positive, not {max_seconds}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, not {workers}")
        if isinstance(preload, str):
            raise ValueError(f"preload is a list of modules' names: ({preload!r},)")
        self._columns = None
        if tests is not None or cases is not None:
            self._columns = Columns(tests, cases, entry_point, () if setup is None else (setup,))
        elif entry_point is not None or setup is not None:
            raise ValueError("entry_point and setup belong to tests: name their column, too")
        self._limits = Limits() if limits is None else limits
        if self._limits.processes < 2:
            raise ValueError("limits.processes must be at least 2: the test's process and the program's")
        self._all, self._max_seconds, self._strict = score == "all", max_seconds, strict
        self._compare: Literal["tokens", "lines"] = compare
        self._tolerance = tolerance
        self._workers, self._preload, self._unsafe = workers, tuple(preload), unsafe

    @property
    def runs_beside(self) -> bool:
        return True

    def score(self, episodes: Sequence[Episode]) -> list[Score]:
        """See `Reward.score`.

        Raises:
            SandboxError: this host isolates no programs.
        """
        if not episodes:
            return []
        sandbox = self._sandbox()
        _ = sandbox.tier  # raises before the first run rather than in every one
        with ThreadPoolExecutor(min(sandbox.workers, len(episodes))) as pool:
            return list(pool.map(lambda episode: self._judge(episode, sandbox), episodes))

    def check_columns(self, columns: Collection[str]) -> None:
        self._find_columns(columns)

    def check(self, episode: Episode) -> None:
        """Make sure that the sandbox is there.

        Raises:
            SandboxError: this host isolates no programs.
        """
        _ = self._sandbox().tier

    def _sandbox(self) -> Sandbox:
        return shared_sandbox(None, self._workers, self._preload, self._unsafe)

    def _judge(self, episode: Episode, sandbox: Sandbox) -> Score:
        try:
            tests = self._tests(episode.row)
        except ValueError as e:
            return Score(None, error=str(e))
        code = extract_code(episode.text, self._strict)
        if code is None:
            return Score(0.0, {"correct": 0.0})
        passed = 0
        end = time.monotonic() + self._max_seconds
        for test in tests:
            if time.monotonic() > end:
                break
            try:
                passes = self._passes(code, test, sandbox)
            except (_BrokenTest, SandboxError) as e:
                return Score(None, error=str(e))
            passed += passes
            if self._all and not passes:
                break
        correct = float(passed == len(tests))
        return Score(correct if self._all else passed / len(tests), {"correct": correct})

    def _passes(self, code: str, test: FunctionTest | _Case, sandbox: Sandbox) -> bool:
        if isinstance(test, FunctionTest):
            verdict = sandbox.test(code, test, self._limits)
            if verdict.passed is None:
                raise _BrokenTest(verdict.detail)
            return verdict.passed
        if len(test.output.encode(errors="replace")) > self._limits.output_bytes:
            raise _BrokenTest("the expected output is longer than limits.output_bytes")
        run = sandbox.run(code, test.input, limits=self._limits)
        return run.outcome is Outcome.OK and same_output(run.stdout, test.output, self._compare, self._tolerance)

    def _tests(self, row: Mapping[str, Any]) -> list[FunctionTest | _Case]:
        """The tests of a row.

        Raises:
            ValueError: there are none, or they have another form.
        """
        columns = self._find_columns(row)
        tests: list[FunctionTest | _Case] = []
        if columns.cases is not None:
            tests += _cases(row[columns.cases], columns.cases)
        if columns.tests is not None:
            setup = "\n".join(_text(row[column], column) for column in columns.setup if row.get(column))
            entry_point = "" if columns.entry_point is None else _text(row[columns.entry_point], columns.entry_point)
            value = row[columns.tests]
            sources = [value] if isinstance(value, str) else value
            if not isinstance(sources, Sequence) or not all(isinstance(source, str) for source in sources):
                raise ValueError(
                    f"column {columns.tests!r} must hold Python source or a list of such, not {value!r:.80}"
                )
            tests += [FunctionTest(source, setup, entry_point) for source in sources]
        if not tests:
            raise ValueError("the row has no tests")
        return tests

    def _find_columns(self, available: Collection[str]) -> Columns:
        """The columns of the tests, as given or recognised.

        Raises:
            ValueError: they are not there.
        """
        known = FORMATS if self._columns is None else {"given": self._columns}
        for columns in known.values():
            if all(column in available for column in columns.required):
                return columns
        wanted = "; ".join(f"{', '.join(columns.required)} ({name})" for name, columns in known.items())
        raise ValueError(
            f"the dataset has no columns with tests: wanted {wanted}, found {', '.join(available) or 'none'}. "
            "Name them by PythonTests(tests=…) or PythonTests(cases=…)"
        )


def extract_code(text: str, strict: bool = True) -> str | None:
    """The last fenced block of Markdown that is marked as Python; or else the last that closes; or else what stands in
    the last `<code>` or `<answer>` tags. None without any, or with `strict=False` the whole text."""
    blocks = list(_blocks(text))
    marked = [code for language, code in blocks if language in _PYTHON]
    if blocks:
        return marked[-1] if marked else blocks[-1][1]
    ends = {tag: text.rfind(f"</{tag}>") for tag in _TAGS}
    tag = max(ends, key=ends.__getitem__)
    start = text.rfind(f"<{tag}>", 0, max(ends[tag], 0))
    if start >= 0:
        return textwrap.dedent(text[start + len(tag) + 2 : ends[tag]]).strip("\r\n")
    return None if strict else text


def same_output(
    actual: str, expected: str, compare: Literal["tokens", "lines"] = "tokens", tolerance: float = 1e-6
) -> bool:
    """Whether what a program wrote is what was expected of it; see `PythonTests`."""
    if compare == "lines":
        return [line.rstrip() for line in actual.rstrip().splitlines()] == [
            line.rstrip() for line in expected.rstrip().splitlines()
        ]
    words, wanted = actual.split(), expected.split()
    return len(words) == len(wanted) and all(_same_word(*pair, tolerance) for pair in zip(words, wanted))


class _Case(NamedTuple):
    input: str
    output: str


class _BrokenTest(Exception):
    """A test that says nothing of the program."""


def _blocks(text: str) -> Iterable[tuple[str, str]]:
    """Language and content of every fenced block that closes."""
    opening: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.splitlines():
        mark = _FENCE.fullmatch(line)
        if opening is None:
            if mark is not None:
                opening, lines = mark, []
        elif mark is not None and mark["fence"].startswith(opening["fence"]) and not mark["info"].strip():
            language = opening["info"].split()
            indent = len(opening["indent"])
            code = "\n".join(line[indent:] if not line[:indent].strip() else line for line in lines)
            yield (language[0].lower() if language else ""), code
            opening = None
        else:
            lines.append(line)


def _same_word(actual: str, expected: str, tolerance: float) -> bool:
    if actual == expected:
        return True
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(actual)) or expected.lstrip("+-").isdecimal():
        return False
    a, e = float(actual), float(expected)
    return math.isfinite(a) and abs(a - e) <= tolerance * max(1.0, abs(e))


def _cases(value: Any, column: str) -> list[_Case]:
    """The cases in a column.

    Raises:
        ValueError: it has another form.
    """
    shown = f"{value!r:.80}"
    try:
        if isinstance(value, str):
            value = json.loads(value)
        if isinstance(value, Mapping):
            if value.get("fn_name"):
                raise ValueError("they call a function (fn_name): write them as tests")
            pairs = list(zip(value["inputs"], value["outputs"], strict=True))
        else:
            pairs = [(case["input"], case["output"]) for case in value]
        return [_Case(_lines(given), _lines(expected)) for given, expected in pairs]
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(
            f'column {column!r} must hold {{"inputs": […], "outputs": […]}} or a list of '
            f'{{"input": …, "output": …}}, texts all, not {shown}: {e}'
        ) from None


def _lines(value: Any) -> str:
    """A text, or a list of its lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    raise TypeError(f"{value!r:.40} is no text")


def _text(value: Any, column: str) -> str:
    """Raises: ValueError: the value of a column is neither a text nor a list of lines."""
    try:
        return _lines(value)
    except TypeError as e:
        raise ValueError(f"column {column!r} must hold a text: {e}") from None
