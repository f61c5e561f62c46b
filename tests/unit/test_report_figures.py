"""Figures as markup: nothing but what is seen gets into the page, and colours follow it."""

import re

import pytest

from closedbook.harness.errors import RequestError
from closedbook.harness.report.figures import inline
from closedbook.harness.study.tables import COLOURS, Analysis, write

HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" width="9pt">'
)


@pytest.fixture
def svg():
    """Makes a figure out of what is in it."""

    def make(inside, head=HEAD):
        return f"{head}{inside}</svg>".encode()

    return make


HOSTILE = [
    "<script>window.hacked=1</script>",
    '<path d="M0 0" onclick="window.hacked=1"/>',
    '<foreignObject><img src="x" onerror="window.hacked=1"/></foreignObject>',
    '<a href="javascript:window.hacked=1"><text>x</text></a>',
    '<use xlink:href="https://tharn.example/hacked"/>',
    '<image xlink:href="https://tharn.example/hacked"/>',
    '<image xlink:href="data:image/svg+xml;base64,hacked"/>',
    '<path d="M0 0" style="fill: url(https://tharn.example/hacked)"/>',
    '<path d="M0 0" fill="UR\\4c(https://tharn.example/hacked)"/>',
    "<style>@import 'https://tharn.example/hacked'</style>",
    "<style>* {background: url(//hacked)}</style>",
    '<animate attributeName="href" values="javascript:hacked"/>',
    "<metadata>hacked</metadata>",
    "<!-- hacked -->",
    "<path style=\"background-image: url(hacked); behavior: hacked; fill: image-set('hacked')\"/>",
]


@pytest.mark.parametrize("inside", HOSTILE)
def test_a_figure_brings_nothing_that_runs_or_asks(svg, inside):
    assert "hacked" not in inline(svg(inside), "f1-", "a.svg").markup


def test_a_text_in_a_figure_stays_text(svg):
    found = inline(
        svg('<text id="t">&lt;script&gt;1&lt;/script&gt; &amp; "<tspan>b</tspan> c</text>'), "f-", "a.svg"
    ).markup
    assert "&lt;script&gt;1&lt;/script&gt; &amp; &quot;<tspan>b</tspan> c</text>" in found


def test_ids_are_the_figures_own(svg):
    inside = '<defs><path id="m" d="M0 0"/><clipPath id="p"/></defs><g clip-path="url(#p)"><use xlink:href="#m"/></g>'
    first, second = (inline(svg(inside), prefix, "a.svg").markup for prefix in ("a-", "b-"))
    assert re.findall(r'(?:id="|#)([\w-]+)', first) == ["a-m", "a-p", "a-p", "a-m"]
    assert not {*re.findall(r'id="([^"]+)', first)} & {*re.findall(r'id="([^"]+)', second)}


def test_colours_follow_the_page_but_not_on_a_card(svg):
    inside = f'<path style="fill: {COLOURS[1]}; stroke: #000000"/><rect fill="#ffffff"/>'
    found = inline(svg(inside), "f-", "a.svg")
    assert (found.card, "fill: var(--s2); stroke: currentColor" in found.markup) == (False, True)
    assert 'fill="var(--paper)"' in found.markup
    picture = inline(svg(f'{inside}<image xlink:href="data:image/png;base64,AA=="/>'), "f-", "a.svg")
    assert (picture.card, "var(" in picture.markup) == (True, False)
    assert 'href="data:image/png;base64,AA=="' in picture.markup


def test_a_figure_of_matplotlib_keeps_its_curves_and_words(tmp_path):
    def plot(axes):
        axes.plot([1, 2], [3, 4], marker="o", label="osric")
        axes.legend()

    write(Analysis("curve", "A curve", ("run",), [["osric"]], {}, plot), tmp_path)
    found = inline((tmp_path / "curve.svg").read_bytes(), "f-", "a.svg").markup
    assert "var(--s1)" in found
    assert ">osric</text>" in found
    assert "<use" in found and "DOCTYPE" not in found and "width=" not in found.partition(">")[0]


@pytest.mark.parametrize("text", ["", "<svg", "<html/>", "<svg/>"])
def test_a_file_that_is_no_figure_is_refused_by_its_name(text):
    with pytest.raises(RequestError, match=r"bad\.svg.*run `closedbook analyze` again"):
        inline(text.encode(), "f-", "bad.svg")
