"""Public names: what `__all__` lists in the modules that the reference shows. Others may import these and no other.

The reference is docs/api; the site shows of its modules what `__all__` lists, where a docstring explains it.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))
MODULES = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)]
PACKAGES = ("closedbook.harness", "closedbook.training")
GIVEN_BY_NAME = ("closedbook.harness.suites.lighteval",)  # to lighteval, which imports it
PAPERS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def file_of(module: str) -> Path:
    """Where a module stands, which is read and not imported: some take long."""
    spec = importlib.util.find_spec(module)
    assert spec and spec.origin, f"there is no {module}"
    return Path(spec.origin)


def tree_of(module: str) -> ast.Module:
    return ast.parse(file_of(module).read_text(encoding="utf-8"))


def listed(module: str) -> list[str]:
    """What a module says is public; nothing where it says nothing."""
    for node in tree_of(module).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=names):
                return list(ast.literal_eval(names))
    return []


def defined(module: str) -> dict[str, bool]:
    """The names that a module defines, and whether a docstring explains each; that of a value stands below it."""
    body, found = tree_of(module).body, dict[str, bool]()
    for node, below in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                found[node.name] = ast.get_docstring(node) is not None
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    return found


def handed_on(module: str) -> dict[str, str]:
    """The names that a module takes from others of ours, each with the module that it comes from."""
    nodes = [node for node in tree_of(module).body if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: str(node.module) for node in nodes for alias in node.names if alias.asname is None}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_of_the_reference_lists_its_public_names_once_each(module: str) -> None:
    names = listed(module)
    assert names and len(set(names)) == len(names)
    assert not [name for name in names if name.startswith("_")]


@pytest.mark.parametrize("module", MODULES)
def test_a_public_name_is_defined_where_it_is_listed_or_handed_on_by_its_package(module: str) -> None:
    own, others = defined(module), handed_on(module) if file_of(module).name == "__init__.py" else {}
    elsewhere = [name for name in listed(module) if name not in own]
    assert [name for name in elsewhere if not others.get(name, "").startswith("closedbook.")] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_public_name_is_explained_so_that_the_reference_shows_it(module: str) -> None:
    own, others = defined(module), handed_on(module)
    explained = {name: own[name] if name in own else defined(others[name])[name] for name in listed(module)}
    assert [name for name, is_so in explained.items() if not is_so] == []


def test_the_reference_shows_public_names_alone() -> None:
    plugins: list[Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["plugins"]
    (options,) = (of["mkdocstrings"]["handlers"]["python"]["options"] for of in plugins if "mkdocstrings" in of)
    assert options["filters"] == "public"


def imported(text: str) -> set[tuple[str, str]]:
    """What the Python in a text imports from us: module and name."""
    found = re.findall(r"from (closedbook\.[\w.]+) import (\([^)]*\)|[^\n#]*)", text)
    parts = [(module, re.sub(r"#[^\n]*", "", names).strip("() \n")) for module, names in found]
    return {(module, part.split()[0]) for module, names in parts for part in names.split(",") if part.strip()}


def mentioned(text: str) -> set[str]:
    """Dotted names of ours in a text, but for patterns, which ci/mutate takes."""
    names = re.findall(r"\bclosedbook\.(?:harness|training)[\w.*]*", text)
    return {name.rstrip(".") for name in names if "*" not in name}


def not_public(name: str) -> bool:
    """Whether a dotted name is none that others may use: no module of the reference, and no public name in one."""
    module, _, last = name.rpartition(".")
    return name not in (*MODULES, *PACKAGES, *GIVEN_BY_NAME) and not (module in MODULES and last in listed(module))


def runs(module: str) -> bool:
    """Whether `python -m` runs a module."""
    file = file_of(module)
    if file.name == "__init__.py":
        return file.with_name("__main__.py").exists()
    return '__name__ == "__main__"' in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("paper", [str(paper.relative_to(ROOT)) for paper in PAPERS])
def test_the_papers_import_and_name_what_is_public(paper: str) -> None:
    text = (ROOT / paper).read_text(encoding="utf-8")
    for module, name in imported(text):
        assert module in MODULES and name in listed(module), f"{paper}: {module}.{name} is not public"
    started = set(re.findall(r"-m (closedbook[\w.]+)", text))
    assert [module for module in started if not runs(module)] == []
    assert [name for name in mentioned(text) - started if not_public(name)] == []


def test_what_is_not_public_is_seen_in_a_paper() -> None:
    text = (
        "`closedbook.harness.files.put` or `closedbook.harness.statistics.Z`. `ci/mutate 'closedbook.harness.*'`\n"
        "from closedbook.harness.judge import (\n    Grade,  # a verdict\n    make_judge as make,\n)\n"
        'python -c "from closedbook.harness.text import fold, clean as c\nfor x in ..."'
    )
    judge, words = ("closedbook.harness.judge", "closedbook.harness.text")
    assert imported(text) == {(judge, "Grade"), (judge, "make_judge"), (words, "fold"), (words, "clean")}
    wrong = {"closedbook.harness.files.put", "closedbook.harness.statistics.Z"}
    assert {name for name in mentioned(text) if not_public(name)} == wrong | {words}
    assert not not_public("closedbook.harness.statistics.wilson")
