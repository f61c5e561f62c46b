"""The report in a real browser: no network, search and sort, a phone, contrast, the keyboard, print, hostile answers.

Debian's Chromium, driven by Playwright's core. Without a browser these tests skip, in CI (CI=true) they fail.
"""

from __future__ import annotations

import os
import runpy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from closedbook.harness.report import page as whole_page
from closedbook.harness.report.page import render
from closedbook.harness.report.reading import read_study
from closedbook.harness.report.sections import sections

MADE = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "report_study.py"))
NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE = {"width": 390, "height": 844}

# Everything with text of its own, its colour, and what it stands on: CSS colours of all shapes are painted and read.
CONTRAST = """
() => {
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const rgba = (css) => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = css; pen.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
  const light = (rgb) => rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    const grounds = [];
    for (let at = element; at; at = at.parentElement) grounds.push(rgba(getComputedStyle(at).backgroundColor));
    return grounds.reverse().reduce((under, one) => over(one, under), [255, 255, 255]);
  };
  const seen = [];
  for (const element of document.querySelectorAll("body *:not(script)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || element.closest(".sr")) continue;
    const style = getComputedStyle(element);
    const under = ground(element);
    const colour = over(rgba(element instanceof SVGElement ? style.fill : style.color), under);
    const [high, low] = [light(colour), light(under)].sort((a, b) => b - a);
    seen.push([(high + 0.05) / (low + 0.05), element.tagName + ": " + element.textContent.trim().slice(0, 40)]);
  }
  return seen;
}
"""
# What reaches over the right edge without a container that scrolls.
OVER_THE_EDGE = """
() => [...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  if (!box.width || box.right <= innerWidth + 0.5 || element.closest(".sr, .skip")) return false;
  for (let at = element.parentElement; at; at = at.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return false;
  return true;
}).map((element) => element.outerHTML.slice(0, 120))
"""
REACHED = """
() => {
  const wanted = [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")];
  return wanted.filter((element) => element.checkVisibility({ visibilityProperty: true })
    && !element.closest("details:not([open]) > :not(summary)")).length;
}
"""


def executable() -> str:
    """The browser's path; without one the test skips, or fails in CI."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        reason = f"no browser: none of {', '.join(NAMES)} is installed; run ci/browser, or install one"
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = executable()
    with sync_playwright() as playwright:
        # a container's root has no sandbox to be in; the page is our own
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a made-up study, with hostile answers and names in it."""
    root = tmp_path_factory.mktemp("browser")
    study = read_study([MADE["write_study"](root / "smolt")])
    path = root / "report.html"
    path.write_text(render(study, sections(study), "Smolt", "closedbook report smolt"), encoding="utf-8")
    return path


Opened = Callable[..., Page]


@contextmanager
def opening(browser: Browser, report: Path) -> Iterator[Opened]:
    """Opens a page; at the end nothing was said on the console and nothing was asked of a network."""
    contexts: list[BrowserContext] = []
    said: list[str] = []

    def open_page(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("data:") else None)
        page.goto(report.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == [report.as_uri()] * len(contexts)


@pytest.fixture
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    """Opens the page of the made-up study."""
    with opening(browser, report) as open_page:
        yield open_page


def unfold(page: Page) -> None:
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")


def too_wide(page: Page) -> list[str]:
    """What a screen cuts off: elements, or the page itself."""
    over: list[str] = page.evaluate(OVER_THE_EDGE)
    wide = page.evaluate("() => document.documentElement.scrollWidth > innerWidth")
    return [*over, *(["the page"] if wide else [])]


def too_pale(page: Page) -> list[tuple[float, str]]:
    """Texts below the contrast of AA."""
    return [(round(ratio, 2), name) for ratio, name in page.evaluate(CONTRAST) if ratio < 4.5]


def keyboard(page: Page) -> tuple[int, int, list[str]]:
    """How many elements there are to reach, how many the Tab key reaches, and those that do not show that they are."""
    wanted: int = page.evaluate(REACHED)
    page.evaluate("() => { window.reached = new Set(); window.unseen = []; }")
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached = page.evaluate(
            """() => {
              const at = document.activeElement;
              if (at === document.body || window.reached.has(at)) return -1;
              window.reached.add(at);
              const style = getComputedStyle(at);
              if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2) window.unseen.push(at.outerHTML);
              return window.reached.size;
            }"""
        )
        if reached == -1:
            break
    return wanted, page.evaluate("() => window.reached.size"), page.evaluate("() => window.unseen")


def rows(page: Page) -> list[list[str]]:
    """The visible rows of the table of changed answers."""
    lines = page.locator("#flips-1-table tbody tr:visible")
    return [line.locator("td").all_inner_texts() for line in lines.all()]


def test_the_page_loads_without_an_error_and_without_a_request(opened: Opened) -> None:
    page = opened()
    assert page.title() == "Smolt"
    assert page.locator("section").count() == 14
    assert page.locator("figure svg").first.bounding_box()["width"] > 300


def test_the_policy_of_the_page_forbids_scripts_and_requests_that_are_not_its_own(
    browser: Browser, report: Path
) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.hacked = 1';"
        " document.body.append(s); const i = new Image(); i.src = 'http://127.0.0.1:9/x'; document.body.append(i); }"
    )
    assert page.evaluate("() => [window.hacked, document.images[0].naturalWidth]") == [None, 0]
    page.close()


def test_search_and_choice_leave_the_rows_that_fit(opened: Opened) -> None:
    page = opened()
    whole = rows(page)
    search, status = page.get_by_label("Search"), page.get_by_role("status")
    search.fill("WINDOW.hacked wo0000")
    assert [row[2] for row in rows(page)] == ["wo0000"]
    assert status.inner_text() == f"1 of {len(whole)} shown"
    search.fill("no such words")
    assert rows(page) == []
    search.fill("")
    page.get_by_label("Show").select_option("lost")
    lost = [row for row in whole if row[0] == "lost"]
    assert rows(page) == lost
    assert 0 < len(lost) < len(whole)


def test_a_click_and_the_enter_key_sort_a_table(opened: Opened) -> None:
    page = opened()
    heading = page.locator("#flips-1-table thead th").nth(2)
    ids = sorted(row[2] for row in rows(page))
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [row[2] for row in rows(page)] == ids
    heading.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert [row[2] for row in rows(page)] == ids[::-1]
    assert page.locator("#flips-1-table th[aria-sort]").count() == 1


def test_numbers_are_sorted_as_numbers_and_what_is_not_known_comes_last(opened: Opened) -> None:
    page = opened()
    heading = page.locator("#accuracy-1-table thead th").nth(3)
    for _ in range(2):
        heading.get_by_role("button").click()
        cells = page.locator("#accuracy-1-table tbody tr td:nth-child(4)").all()
        values = [cell.get_attribute("data-sort") for cell in cells]
        known = [float(value) for value in values if value is not None]
        up = heading.get_attribute("aria-sort") == "ascending"
        assert known == sorted(known, reverse=not up)
        assert values[len(known) :] == [None, None]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_a_phone(opened: Opened, scheme: str) -> None:
    page = opened(viewport=PHONE, color_scheme=scheme, device_scale_factor=2, is_mobile=True, has_touch=True)
    assert too_wide(page) == []
    unfold(page)
    assert too_wide(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_text_has_the_contrast_of_aa(opened: Opened, scheme: str, width: int) -> None:
    page = opened(viewport={"width": width, "height": 900}, color_scheme=scheme)
    unfold(page)
    page.evaluate("() => { location.hash = '#run-e1'; }")  # its row is highlighted
    seen = page.evaluate(CONTRAST)
    assert len(seen) > 400
    assert any(name.startswith("text:") for _, name in seen)  # in figures too
    assert too_pale(page) == []


def test_dark_is_dark_and_paper_is_light(opened: Opened) -> None:
    page = opened(color_scheme="dark")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(17, 21, 27)"
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"


def test_the_keyboard_reaches_everything_and_shows_where_it_is(opened: Opened) -> None:
    page = opened()
    wanted, reached, unseen = keyboard(page)
    assert wanted == reached > 100
    assert unseen == []


def test_a_number_leads_to_its_run(opened: Opened) -> None:
    page = opened()
    page.locator("#accuracy-1-table tbody tr", has_text="grpo").first.locator("a").nth(1).click()
    assert page.evaluate("() => document.querySelector(':target').id") == "run-e3"
    assert "closedbook eval runs/grpo" in page.locator(":target").inner_text()


def test_where_a_figure_comes_from_is_a_click_away(opened: Opened) -> None:
    page = opened()
    details = page.locator("#passk details.source")
    assert not details.locator("dl").is_visible()
    details.locator("summary").click()
    assert "closedbook analyze passk" in details.locator("dl").inner_text()
    digest = details.locator("dl code").nth(1).inner_text()
    assert digest in page.locator("#run-s1").inner_text()


@pytest.mark.parametrize("answer", MADE["HOSTILE"][:4])
def test_a_hostile_answer_stays_text(opened: Opened, answer: str) -> None:
    page = opened()
    page.wait_for_timeout(50)
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("img, iframe, object, embed").count() == 0
    cells = page.locator("#flips-1-table td").all_inner_texts()
    assert any(answer in cell for cell in cells)


def test_a_table_can_be_taken_away_as_a_file(opened: Opened) -> None:
    page = opened()
    with page.expect_download() as started:
        page.locator("#flips .downloads a", has_text="CSV").click()
    assert started.value.suggested_filename == "flips.csv"
    assert started.value.path().read_text().startswith("change,bucket,id,question,before,after,gold\n")


def test_paper_shows_no_controls_and_says_where_things_come_from(opened: Opened) -> None:
    page = opened()
    page.emulate_media(media="print")
    for hidden in ("nav", ".controls", ".downloads", ".skip"):
        assert not any(one.is_visible() for one in page.locator(hidden).all()), hidden
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert all(one.is_visible() for one in page.locator("details.source dl, details.columns dl").all())
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


@pytest.fixture
def folded(report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same page with all tables folded, as long ones are."""
    monkeypatch.setattr(whole_page, "LONG", 1)
    study = read_study([report.parent / "smolt"])
    path = tmp_path / "folded.html"
    path.write_text(render(study, sections(study), "Smolt", "closedbook report smolt"), encoding="utf-8")
    return path


def test_paper_shows_long_tables_whole_and_a_link_into_one_opens_it(browser: Browser, folded: Path) -> None:
    with opening(browser, folded) as open_page:
        page = open_page()
        row = page.locator("#run-e3")
        assert not row.is_visible()
        page.emulate_media(media="print")
        page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
        assert row.is_visible()
        page.evaluate("() => dispatchEvent(new Event('afterprint'))")
        assert not row.is_visible()
        page.emulate_media(media="screen")
        page.evaluate("() => { location.hash = '#run-e3'; }")
        row.wait_for(state="visible")
        # this browser opens it by itself; others do not
        row.evaluate("row => { row.closest('details').open = false; dispatchEvent(new Event('hashchange')); }")
        assert row.is_visible()
        page.wait_for_function("() => document.querySelector(':target').getBoundingClientRect().top < innerHeight")


def test_without_scripts_everything_is_there_to_read(opened: Opened) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator("#flips-1-table tbody tr:visible").count() > 10
    assert not page.locator(".controls").is_visible()


def test_a_machine_without_a_browser_skips_and_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser"):
        executable()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no browser"):
        executable()
