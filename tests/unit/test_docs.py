"""The pages of docs/: they read alike on GitHub and on the site, and the README's links lead somewhere.

That links between pages hold is checked by `ci/docs`, which builds the site.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))


def misread(page: str) -> list[int]:
    """Lines, from 1, of blocks that GitHub sees and the site does not.

    The site's Markdown wants an empty line before a list and before each further block of an item, and four spaces in
    front of the latter.
    """
    lines, depth, opened, wrong = page.splitlines(), 0, 0, []
    for token in MarkdownIt("commonmark").enable("table").parse(page):
        at = token.map[0] if token.map else 0
        above = lines[at - 1] if at else ""
        match token.type:
            case "bullet_list_open" | "ordered_list_open":
                depth += 1
                if above.strip() and not above.startswith("#"):
                    wrong.append(at + 1)
            case "bullet_list_close" | "ordered_list_close":
                depth -= 1
            case "list_item_open":
                opened = at
            case "paragraph_open" | "table_open" | "fence" if depth and at > opened:
                if above.strip() or not lines[at].startswith(" " * 4 * depth):
                    wrong.append(at + 1)
    return wrong


@pytest.mark.parametrize("name", PAGES)
def test_a_page_reads_alike_on_github_and_on_the_site(name: str) -> None:
    assert misread((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("page", "wrong"),
    [
        ("Text:\n- one\n- two\n", [2]),
        ("Text:\n\n- one\n- two\n\n# Head\n- three\n", []),
        ("1. one\n\n   | a | b |\n   |---|---|\n   | c | d |\n", [3]),
        ("1. one\n\n    | a | b |\n    |---|---|\n    | c | d |\n\n2. two\n", []),
        ("- one\n  ```\n  code\n  ```\n", [2]),
        ("- one\n\n    ```\n    code\n    ```\n\n- two\n", []),
    ],
)
def test_what_the_site_would_misread_is_named_by_its_line(page: str, wrong: list[int]) -> None:
    assert misread(page) == wrong


def test_every_link_of_the_readme_and_the_papers_leads_to_a_file() -> None:
    targets = [
        (path.name, to) for path in ROOT.glob("*.md") for to in re.findall(r"\]\(([^)#]+)", path.read_text("utf-8"))
    ]
    assert targets
    assert [(name, to) for name, to in targets if not to.startswith("https://") and not (ROOT / to).exists()] == []
