"""What importing costs and which way the arrows point. Imports are counted, not seconds: a count does not flake."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = [
    "bm25s", "datasets", "inspect_ai", "lm_eval", "openai", "pandas", "pyarrow", "ray", "scipy", "torch", "transformers"
]  # fmt: skip
# Their classes derive from lm-eval's, or they stand in another suite, so they are not light.
NOT_LIGHT = {f"closedbook.harness.{name}" for name in ("task", "testing")} | {
    f"closedbook.harness.suites.{name}" for name in ("inspect", "lighteval", "verifiers")
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["closedbook", *parts]).removesuffix(".__init__")


HARNESS = {module_name(path): path for path in sorted((ROOT / "harness").rglob("*.py"))}
MODULES = HARNESS | {module_name(path): path for path in sorted((ROOT / "training").rglob("*.py"))}
# A dry run reads a recipe and tells its plan at once.
DRY_RUN = ["closedbook.training.plan", "closedbook.training.recipes", "closedbook.training.trl_config"]
LIGHT = ["closedbook", *sorted(HARNESS.keys() - NOT_LIGHT), *DRY_RUN]


def heavy_after(statement: str) -> list[str]:
    """Which heavy packages a fresh interpreter has loaded after the statement."""
    report = f"import sys; print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)"
    code = f"{statement}\n{report}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stderr.split()


def imported_by(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # resolved, so that `from .. import training` would be seen
            package = module_name(path).split(".")[: -node.level or None] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def test_no_light_module_loads_a_heavy_package() -> None:
    assert heavy_after("\n".join(f"import {name}" for name in LIGHT)) == []


def test_the_package_says_what_it_lacks_like_any_other() -> None:
    import closedbook

    with pytest.raises(AttributeError, match="module 'closedbook' has no attribute 'nothing'"):
        closedbook.nothing  # noqa: B018


def test_help_loads_no_heavy_package() -> None:
    run = "from closedbook.harness.cli import main\nimport sys\nsys.argv = ['closedbook', '--help']"
    assert heavy_after(f"{run}\ntry:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code") == []


@pytest.mark.parametrize("name", HARNESS)
def test_harness_never_imports_training(name: str) -> None:
    assert not [found for found in imported_by(HARNESS[name]) if found.startswith("closedbook.training")]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_opens_with_a_docstring(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))


def test_every_entry_point_loads() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    for group, declared in groups.items():
        installed = {point.name: point for point in entry_points(group=group) if point.value in declared.values()}
        assert installed.keys() == declared.keys(), f"{group}: install again"
        for point in installed.values():
            point.load()
