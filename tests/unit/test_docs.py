"""The pages of docs/: they read alike on GitHub and on the site, links lead somewhere, and commands are there.

That links between pages hold is checked by `ci/docs`, which builds the site. The tutorial's commands, and those of
`own_benchmark.md`, are run too, by the integration tests of these names; others would take hours, or a GPU.
"""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from markdown_it import MarkdownIt

from closedbook.harness import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
PAPERS = [*PAGES, *(path.name for path in ROOT.glob("*.md"))]


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


# --- commands ---


def commands(page: str) -> list[list[str]]:
    """The arguments of every `closedbook` in a page's fenced blocks, without what the shell takes for itself."""
    blocks = [token.content for token in MarkdownIt("commonmark").parse(page) if token.type == "fence"]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [re.fullmatch(r"(?:\w+=\S+ )*closedbook (.*)", line.strip()) for line in lines]
    return [shlex.split(re.split(r" (?:[|>;&]|2>)", of[1])[0], comments=True) for of in found if of]


def parse(words: list[str]) -> None:
    """Have the command line read a command, and not run it.

    Raises:
        click.UsageError: There is no such command, or it takes other arguments.
    """
    command: Any = typer.main.get_command(cli.program())
    context, name = None, "closedbook"
    while True:
        context = command.make_context(name, list(words), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


def test_commands_are_found_in_blocks_without_what_is_the_shells() -> None:
    page = "closedbook a\n```\nclosedbook eval M \\\n  -n 2  # two\nX=1 closedbook report R > out\npip install b\n```\n"
    assert commands(page) == [["eval", "M", "-n", "2"], ["report", "R"]]


@pytest.mark.parametrize(
    "wrong", [["evaluate", "M"], ["eval", "M", "--no-such-option"], ["eval", "M", "--limit", "few"], ["sample"]]
)
def test_a_command_that_is_none_is_seen(wrong: list[str]) -> None:
    with pytest.raises(Exception, match=r"No such (command|option)|valid integer|Missing parameter"):
        parse(wrong)


@pytest.mark.parametrize("name", PAPERS)
def test_python_on_a_page_gives_what_the_page_says(name: str) -> None:
    fences = [
        token for token in MarkdownIt("commonmark").parse((ROOT / name).read_text(encoding="utf-8")) if token.content
    ]
    code = "\n".join(fence.content for fence in fences if fence.info == "python" and ">>>" in fence.content)
    session = doctest.DocTestParser().get_doctest(code, {}, name, name, 0)
    assert doctest.DocTestRunner().run(session).failed == 0


@pytest.mark.parametrize("name", PAPERS)
def test_every_command_on_a_page_is_one_that_the_command_line_takes(name: str) -> None:
    for words in commands((ROOT / name).read_text(encoding="utf-8")):
        parse([word.replace("METHOD", "sft") for word in words])
