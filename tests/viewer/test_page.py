"""The page in a real browser: clicks, keys, filters, colours; what an attacker's text does; how it looks."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tokengym import viewer

from .records import HOSTILE, make_large_run, make_run, write_step
from .records import row as make_row

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright (the extra dev)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium on this machine (Debian's package chromium)"
)

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root.
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("run"))
    viewer.write(run)
    return run


@pytest.fixture(scope="module")
def rows(run: Path) -> list[dict[str, Any]]:
    """The record, in order, each row with its step."""
    found = []
    for path in sorted((run / "rollouts").iterdir()):
        with gzip.open(path, "rt") as file:
            found += [json.loads(line) | {"step": int(path.name[5:13])} for line in file]
    return found


@pytest.fixture
def page(browser: Any, run: Path) -> Iterator[Any]:
    with opened(browser, run / "view.html") as page:
        yield page


@contextmanager
def opened(browser: Any, path: Path | str, hash_: str = "", **options: Any) -> Iterator[Any]:
    """A page; afterwards: it has complained of nothing, asked for nothing but itself, and nobody's script has run."""
    context = browser.new_context(**{"viewport": WIDE} | options)
    context.set_default_timeout(15_000)
    page = context.new_page()
    errors: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((path.as_uri() if isinstance(path, Path) else path) + hash_)
    page.wait_for_selector("body[data-ready]")
    yield page
    assert errors == []
    assert len(requests) == 1
    assert page.evaluate("window.harmed") is None
    context.close()


def settled(page: Any, number: int) -> None:
    page.wait_for_selector(f"#detail[data-number='{number}']")


def counts(page: Any, text: str | re.Pattern[str]) -> None:
    sync_api.expect(page.locator("#count")).to_have_text(text)


def number_of(rows: list[dict[str, Any]], step: int, group: int, index: int) -> int:
    return next(i for i, r in enumerate(rows) if (r["step"], r["group"], r["index"]) == (step, group, index))


def go(page: Any, rows: list[dict[str, Any]], step: int, group: int, index: int) -> dict[str, Any]:
    page.evaluate(f"location.hash = '{step}.{group}.{index}'")
    settled(page, number_of(rows, step, group, index))
    return rows[number_of(rows, step, group, index)]


# Finding one's way.


def test_it_says_what_is_in_it(page: Any, rows: list[dict[str, Any]]) -> None:
    about = page.inner_text("#about")
    assert "GRPO on ToolMath-v0 from tiny" in about
    assert f"3 steps, 33 groups, {len(rows)} trajectories" in about
    assert page.inner_text("#count") == f"all {len(rows)}"
    assert page.inner_text("#where") == "step 1 · group 0 · trajectory 0"


def test_a_click_opens_a_trajectory(page: Any, rows: list[dict[str, Any]]) -> None:
    page.click("#row-5")
    settled(page, 5)
    assert page.inner_text("#where") == "step 1 · group 0 · trajectory 5"
    assert page.get_attribute("#row-5", "aria-selected") == "true"
    assert page.evaluate("location.hash") == "#1.0.5"
    assert rows[5]["answer"] in page.inner_text("#facts")
    page.click("#next")
    settled(page, 6)
    page.click("#previous")
    settled(page, 5)


def test_an_address_names_a_trajectory(browser: Any, run: Path, rows: list[dict[str, Any]]) -> None:
    with opened(browser, run / "view.html", "#20.2.3") as page:
        settled(page, number_of(rows, 20, 2, 3))
        assert page.inner_text("#where") == "step 20 · group 2 · trajectory 3"


def test_keys(page: Any, rows: list[dict[str, Any]]) -> None:
    def after(keys: str) -> str:
        for key in keys.split():
            page.keyboard.press(key)
        page.wait_for_timeout(60)
        return page.inner_text("#where")

    assert after("j j") == "step 1 · group 0 · trajectory 2"
    assert after("k") == "step 1 · group 0 · trajectory 1"
    assert after("ArrowUp ArrowUp ArrowUp") == "step 1 · group 0 · trajectory 0"
    assert after("Shift+J Shift+J j") == "step 1 · group 2 · trajectory 1"
    assert after("Shift+K") == "step 1 · group 1 · trajectory 0"
    assert after("]") == "step 10 · group 0 · trajectory 0"
    assert after("] ]") == "step 20 · group 0 · trajectory 0"
    assert after("[") == "step 10 · group 0 · trajectory 0"
    after("ArrowRight ArrowRight")
    row = rows[number_of(rows, 10, 0, 0)]
    assert page.inner_text("#token").startswith(f"token {row['actions'][0][0] + 1} ")
    after("ArrowLeft")
    assert page.inner_text("#token").startswith(f"token {row['actions'][0][0]} ")
    assert page.is_checked("input[value=advantages]")
    after("c")
    assert page.is_checked("input[value=entropies]")
    after("/")
    page.keyboard.type("jkx")  # letters in a field are letters
    assert page.input_value("[name=text]") == "jkx"
    page.keyboard.press("Escape")
    after("x")
    counts(page, f"all {len(rows)}")
    help_line = page.inner_text("footer")
    for key in ("j", "k", "J", "K", "[", "]", "←", "→", "c", "/", "x", "Esc"):
        assert key in help_line


def passing(rows: list[dict[str, Any]], **f: Any) -> list[int]:
    def passes(r: dict[str, Any]) -> bool:
        text = "".join(r["tokens"]).lower()
        bounded = "rewardLeast" in f or "rewardMost" in f
        return (
            ("step" not in f or r["step"] == int(f["step"]))
            and not (bounded and r["reward"] is None)
            and ("rewardLeast" not in f or r["reward"] >= float(f["rewardLeast"]))
            and ("rewardMost" not in f or r["reward"] <= float(f["rewardMost"]))
            and ("lengthLeast" not in f or r["num_tokens"] >= int(f["lengthLeast"]))
            and ("lengthMost" not in f or r["num_tokens"] <= int(f["lengthMost"]))
            and ("stop" not in f or r["stop"] == f["stop"])
            and ("score" not in f or (r["reward"] is None) == (f["score"] == "abstained"))
            and ("text" not in f or f["text"].lower() in text)
        )

    return [i for i, r in enumerate(rows) if passes(r)]


@pytest.mark.parametrize(
    "filters",
    [
        {"step": "10"},
        {"rewardLeast": "0.5"},
        {"rewardMost": "0"},
        {"rewardLeast": "0.2", "rewardMost": "0.7"},
        {"lengthLeast": "20", "lengthMost": "30"},
        {"stop": "tool_limit"},
        {"score": "abstained"},
        {"score": "scored", "step": "20"},
        {"text": "BASKETS"},
        {"text": "answer is", "rewardLeast": "1", "stop": "answered", "step": "1"},
        {"text": "日本"},
        {"text": "no such text"},
    ],
    ids=str,
)
def test_filters(page: Any, rows: list[dict[str, Any]], filters: dict[str, str]) -> None:
    expected = passing(rows, **filters)
    for name, value in filters.items():
        field = page.locator(f"[name={name}]")
        if name in ("step", "stop", "score"):
            field.select_option(label=value)
        else:
            field.fill(value)
    count = f"{len(expected)} of {len(rows)}"
    counts(page, count)
    assert page.evaluate("document.querySelectorAll('.row').length") <= len(expected)
    if not expected:
        assert page.is_visible("#nothing")
        assert not page.is_visible("#detail")
        return
    settled(page, expected[0])
    assert page.evaluate("document.querySelector('.row').dataset.number") == str(expected[0])
    page.keyboard.press("Escape")
    for number in expected[1:4]:  # and the keys walk through these
        page.keyboard.press("j")
        settled(page, number)
    if "text" in filters:
        marked = "".join(page.locator("#tokens .found").all_inner_texts()).lower()
        assert filters["text"].lower() in marked
    page.click("button[type=reset]")
    counts(page, f"all {len(rows)}")


def test_letters_that_get_longer_in_lower_case_are_searched_too(browser: Any, tmp_path: Path) -> None:
    found = make_row([("user", "?"), ("assistant", "İİİİİİ İstanbul it is")], random.Random(0))
    write_step(tmp_path, 1, [[found, make_row([("user", "?"), ("assistant", "no")], random.Random(0))]])
    with opened(browser, viewer.write(tmp_path)) as page:
        for text, marked in (("IT IS", "it is"), ("İSTANBUL", "İstanbul")):
            page.fill("[name=text]", text)
            page.wait_for_function(
                "marked => [...document.querySelectorAll('#tokens .found')].map(e => e.textContent).join('').trim() === marked",
                arg=marked,
            )
            counts(page, "1 of 2")


# A trajectory.


def test_tokens_have_their_text_and_colour(page: Any, rows: list[dict[str, Any]]) -> None:
    row = go(page, rows, 10, 4, 1)
    [(start, end)] = row["actions"]
    spans = page.locator(".token")
    assert spans.count() == end - start
    texts = [
        re.sub("↵\n", "\n", text)
        for text in page.evaluate("[...document.querySelectorAll('.token')].map(e => e.textContent)")
    ]
    assert texts == row["tokens"][start:end]
    for quantity in ("advantages", "entropies", "log_ratios", "logprobs"):
        page.check(f"input[value={quantity}]")
        strengths = page.evaluate(
            """[...document.querySelectorAll('.token')].map(e => {
                const parts = getComputedStyle(e).backgroundColor.match(/[\\d.e-]+/g).map(Number);
                return [parts[0] < parts[2], parts.length > 3 ? parts[3] : 1];  // bluish, alpha
            })"""
        )
        magnitudes = [abs(value) for value in row[quantity]]
        order = sorted(range(len(magnitudes)), key=magnitudes.__getitem__)
        alphas = [strengths[i][1] for i in order]
        assert alphas == sorted(alphas), "the larger the value, the stronger the colour"
        assert max(alphas) > 0.3
        if quantity in ("advantages", "log_ratios"):
            for value, (bluish, alpha) in zip(row[quantity], strengths):
                assert alpha < 0.05 or bluish == (value > 0)


def test_a_token_tells_its_numbers(page: Any, rows: list[dict[str, Any]]) -> None:
    row = go(page, rows, 1, 0, 3)
    page.locator(".token").nth(4).click()
    told = page.inner_text("#token").replace("−", "-")
    assert f"token {row['actions'][0][0] + 4}" in told
    numbers = [float(x) for x in re.findall(r"(?:log-probability|entropy|advantage|log-ratio) ([-+]?[\d.e-]+)", told)]
    expected = [row[name][4] for name in ("logprobs", "entropies", "advantages", "log_ratios")]
    assert numbers == pytest.approx(expected, rel=0.01, abs=1e-3)


def test_what_nobody_computed_is_marked(page: Any, rows: list[dict[str, Any]]) -> None:
    row = go(page, rows, 1, 10, 0)
    count = row["num_tokens"]
    assert "learned from no" in page.inner_text("#facts").replace("\n", " ")
    assert "not learned from" in page.inner_text("#list")
    assert page.locator(".token.unknown").count() == count
    page.check("input[value=entropies]")
    assert page.locator(".token.unknown").count() == 0


def test_tools_are_set_apart(page: Any, rows: list[dict[str, Any]]) -> None:
    row = go(page, rows, 1, 1, 0)
    [(start, end), (again, last)] = row["actions"]
    assert page.locator(".segment h3").all_inner_texts() == [
        f"prompt · {start} tokens",
        f"turn 1 · {end - start} tokens",
        f"result of calculator · {again - end} tokens",
        f"turn 2 · {last - again} tokens",
    ]
    [call] = page.evaluate("[...document.querySelectorAll('.call')].map(e => e.textContent)")
    assert call.startswith("<tool_call>")
    assert call.endswith("</tool_call>")
    assert "217358" in page.inner_text(".segment.tool")
    assert page.locator(".segment.tool .token, .segment.prompt .token").count() == 0  # not the policy's

    go(page, rows, 1, 1, 1)
    [call] = page.evaluate("[...document.querySelectorAll('.call')].map(e => e.textContent)")
    assert call == "<calculator>569*382</calculator>"
    assert page.get_attribute("[data-given]", "data-given") == "+0.25"

    row = go(page, rows, 1, 1, 2)
    assert page.locator(".call").count() == 1
    assert "tool_limit" in page.inner_text("#facts")
    assert row["stop"] == "tool_limit"

    go(page, rows, 1, 1, 3)
    assert page.locator(".call").count() == 0
    assert page.locator(".segment.reply h3").inner_text().startswith("user")
    assert page.get_attribute("[data-given]", "data-given") == "−0.5"


def test_scores_and_abstentions(page: Any, rows: list[dict[str, Any]]) -> None:
    row = go(page, rows, 1, 0, 0)
    facts = page.inner_text("#facts").replace("−", "-")
    for name, value in row["parts"].items():
        assert re.search(rf"{name}\s+{value:g}", facts)
    go(page, rows, 1, 2, 2)
    assert "abstained" in page.inner_text("#facts")
    assert "the verifier was given 5 s" in page.inner_text("#error")
    go(page, rows, 1, 2, 3)
    assert not page.is_visible("#error")


def test_a_tree_is_drawn_as_one(page: Any, rows: list[dict[str, Any]]) -> None:
    go(page, rows, 1, 2, 3)
    assert page.inner_text("#group summary") == "Tree of 5 trajectories, 3 branches"
    lines = page.evaluate(
        """[...document.querySelectorAll('#tree .trajectory')].map(e => ({
            number: Number(e.dataset.number),
            d: e.querySelector('.line').getAttribute('d'),
            label: e.querySelector('text').textContent,
        }))"""
    )
    first = number_of(rows, 1, 2, 0)
    group = rows[first : first + 5]
    assert [line["label"] for line in lines] == [
        f"{k}: {'abstained' if group[k]['reward'] is None else 'reward ' + format(group[k]['reward'], 'g')}"
        for k in (line["number"] - first for line in lines)
    ]
    longest = max(len(row["tokens"]) for row in group)
    y: dict[int, float] = {}
    ends = {}
    for line in lines:
        *rise, run = re.findall(r"M([\d.]+) ([\d.]+) ([VH])([\d.]+)", line["d"])
        k = line["number"] - first
        y[k], ends[k] = float(run[1]), (float(run[0]), float(run[3]))
        if group[k]["parent"] is None:
            assert rise == []
        else:
            [(x, from_, _, to)] = rise
            assert float(from_) == y[group[k]["parent"]], "it leaves its parent's line"
            assert float(to) == y[k]
            assert float(x) == ends[k][0]
    scale = (ends[3][1] - ends[1][0]) / (len(group[3]["tokens"]) - group[1]["fork"])
    for k, row in enumerate(group):
        assert ends[k][1] == pytest.approx(10 + scale * len(row["tokens"]), abs=0.01)
        if row["fork"] is not None:
            assert ends[k][0] == pytest.approx(10 + scale * row["fork"], abs=0.01)
    assert longest == max(len(row["tokens"]) for row in group)
    page.click(f"#tree [data-number='{first + 1}'] .target")
    settled(page, first + 1)
    assert "branch of" in page.inner_text("#facts")


def test_the_list_has_branches_behind_what_they_left(browser: Any, tmp_path: Path) -> None:
    rng = random.Random(0)
    first, second, branch, deeper = (make_row([("user", "?"), ("assistant", "a b c d e")], rng) for _ in range(4))
    write_step(tmp_path, 1, [[first, second, branch | {"parent": 0, "fork": 8}, deeper | {"parent": 2, "fork": 9}]])
    with opened(browser, viewer.write(tmp_path)) as page:
        listed = [0, 2, 3, 1]
        assert page.evaluate("[...document.querySelectorAll('.row')].map(e => Number(e.dataset.number))") == listed
        drawn = "[...document.querySelectorAll('#tree .trajectory')].map(e => Number(e.dataset.number))"
        assert page.evaluate(drawn) == listed
        for number in listed[1:]:
            page.keyboard.press("j")
            settled(page, number)


# Attacks.


def test_text_of_models_is_shown_and_not_run(page: Any, rows: list[dict[str, Any]]) -> None:
    for index in (0, 1):
        go(page, rows, 1, 3, index)
        page.locator(".token").nth(3).click()
        shown = page.evaluate("document.querySelector('.segment.policy .body').textContent")
        for text in ("</script><script>window.harmed = 1</script>", "<img src=x onerror='window.harmed = 2'>", "&amp;"):
            assert text in shown
        for escape in (r"\u{202e}", r"\x1b", r"\x07", r"\u{200b}", r"\u{d800}", r"\u{2028}"):
            assert escape in shown
        everything = page.evaluate("document.body.textContent")
        assert not set("\u202e\x1b\x07\u200b\u2028") & set(everything)
    page.fill("[name=text]", HOSTILE[:40])
    counts(page, f"6 of {len(rows)}")
    assert (
        page.evaluate("document.querySelectorAll('#detail img, #detail script, #list img, #list script').length") == 0
    )


def test_even_markup_that_got_in_would_not_run(browser: Any, run: Path) -> None:
    """What the policy of the page forbids, in case that some text were taken for markup after all."""
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto((run / "view.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    page.evaluate(
        """async () => {
            const box = document.createElement('div');
            document.body.append(box);
            box.innerHTML = `<img src="http://127.0.0.1:9/x.png" onerror="window.harmed = 1">
                <a href="javascript:window.harmed = 2">a</a>`;
            const script = document.createElement('script');
            script.textContent = 'window.harmed = 3';
            box.append(script);
            box.querySelector('a').click();
            window.fetched = await fetch('http://127.0.0.1:9/').then(() => true, () => false);
        }"""
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.harmed") is None
    assert page.evaluate("window.fetched") is False
    assert sum("Content Security Policy" in text for text in refused) >= 4
    context.close()


# Size.


def test_ten_thousand_trajectories(browser: Any, tmp_path: Path) -> None:
    path = viewer.write(make_large_run(tmp_path))
    with opened(browser, path) as page:
        milliseconds = int(page.get_attribute("body", "data-ready"))
        print(f"10 000 trajectories, {path.stat().st_size / 1e6:.1f} MB: open after {milliseconds} ms")
        assert milliseconds < 30_000  # a hang; what it takes is printed
        assert page.inner_text("#count") == "all 10,000"
        assert page.locator("#rows > div").count() < 100
        page.evaluate("document.querySelector('#list').scrollTop = 1e9")
        page.wait_for_selector("#row-9999")
        page.click("#row-9999")
        settled(page, 9999)
        page.fill("[name=text]", "baskets")
        counts(page, re.compile("^[1-9][0-9,]* of 10,000$"))


# The server.


def test_it_is_served_on_this_machine_only(browser: Any, run: Path) -> None:
    server = viewer.serve(lambda: viewer.build(viewer.read(run)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert server.server_address[0] == "127.0.0.1"
        url = f"http://127.0.0.1:{server.server_port}/"
        with opened(browser, url) as page:
            assert "33 groups" in page.inner_text("#about")
        for wrong in (
            urllib.request.Request(url + "../../etc/passwd"),
            urllib.request.Request(url + "agent.json"),
            urllib.request.Request(url, headers={"Host": "attacker.example"}),
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(wrong, timeout=10)
            assert caught.value.code == 404
    finally:
        server.shutdown()
        server.server_close()


# How it looks.

VIEWS = {"group": (1, 0, 0), "tools": (1, 1, 1), "tree": (1, 2, 3), "abstained": (1, 2, 2), "hostile": (1, 3, 1)}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "phone"])
def test_screenshots(browser: Any, run: Path, rows: list[dict[str, Any]], scheme: str, size: str) -> None:
    """Kept in build/screenshots for people to look at; here only what can be told by numbers."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    viewport = WIDE if size == "wide" else PHONE
    with opened(browser, run / "view.html", color_scheme=scheme, viewport=viewport) as page:

        def shoot(name: str) -> None:
            page.screenshot(path=SCREENSHOTS / f"{name}-{size}-{scheme}.png")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= viewport["width"], f"{name} is wider than the screen"
            for selector in ("#tree text", "#facts dd", "#legend .end", "h2", "footer span"):
                outside = page.evaluate(
                    """([selector, width]) => [...document.querySelectorAll(selector)]
                        .map(e => [e.getBoundingClientRect(), e.textContent])
                        .filter(([box]) => box.width && (box.right > width || box.left < 0)).map(([, text]) => text)""",
                    [selector, viewport["width"]],
                )
                assert outside == [], f"{name}: cut off at the side"

        shoot("list")
        page.click("#row-0")
        for name, (step, group, index) in VIEWS.items():
            go(page, rows, step, group, index)
            page.locator(".token").nth(5).click()
            shoot(name)
        for quantity in ("entropies", "log_ratios", "logprobs"):
            page.check(f"input[value={quantity}]")
            shoot(quantity)
        if size == "phone":
            page.click("#back")
            page.click("#unfold")
        page.fill("[name=text]", "search")
        page.fill("[name=rewardLeast]", "0.5")
        counts(page, re.compile("of"))
        shoot("filtered")
