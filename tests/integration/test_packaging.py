"""The package as others get it: an sdist, the wheel built from it, and an editable install, each in a new environment.

One environment serves all: installing lm-eval's dependencies takes most of the time. The wheel is tried first, removed,
and the editable install takes its place. pip is the only thing here that reaches a network, and only its own index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "mutants", "runs", "htmlcov")


@dataclass(frozen=True)
class Environment:
    """A virtual environment without the development packages, and a folder to run it from."""

    folder: Path
    elsewhere: Path

    def run(self, program: str, *args: str | Path) -> str:
        """Run a program of the environment in a folder that holds `harness` and `tasks`; return what it prints."""
        command = [str(self.folder / "bin" / program), *map(str, args)]
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE", "COV_"))}
        done = subprocess.run(command, cwd=self.elsewhere, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def pip(self, *args: str | Path) -> None:
        self.run("python", "-m", "pip", "--disable-pip-version-check", "-qq", *args)

    def traces(self) -> list[str]:
        """Every file in the environment that is ours. (pip leaves the folder of a namespace package, empty.)"""
        return [name for name in sorted(files_under(self.folder)) if "closedbook" in name]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: building writes beside them, and other tests read them meanwhile."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "closedbook", ignore=NOT_SOURCE))


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an sdist and the wheel made from that sdist, as `python -m build` leaves it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(checkout)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("harness", "tasks", "training", "closedbook"):
        (elsewhere / name).mkdir()
    return Environment(folder, elsewhere)


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest, environment: Environment, checkout: Path, wheel: Path
) -> Iterator[Environment]:
    """The environment with the package in it; removing it afterwards must leave nothing."""
    # uncompiled: compiling lm-eval's dependencies would double the time
    install = ("install", "--no-compile", "--constraint", ROOT / "ci" / "constraints.txt")
    if request.param == "wheel":
        environment.pip(*install, wheel)
    else:  # the wheel's dependencies are still there, unless its tests ran in another process
        environment.pip(*install, "--editable", checkout)
    yield environment
    environment.pip("uninstall", "--yes", "closedbook")
    assert environment.traces() == []


def names_in(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def names_in_sdist(built: Path) -> set[str]:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        return {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}


def files_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_holds_the_three_folders_and_nothing_else(checkout: Path, wheel: Path) -> None:
    expected = {
        f"{target}/{name}"
        for source, target in (
            ("harness", "closedbook/harness"),
            ("training", "closedbook/training"),
            ("tasks", "lm_eval/tasks/closedbook"),
        )
        for name in files_under(checkout / source)
    }
    top = {
        "closedbook/harness/package.py": "closedbook/__init__.py",
        "closedbook/harness/py.typed": "closedbook/py.typed",
    }
    expected = expected - top.keys() | set(top.values())  # the same files
    assert {name for name in names_in(wheel) if ".dist-info/" not in name} == expected


def test_the_wheel_holds_what_is_not_python(wheel: Path) -> None:
    package = {"benchmarks.toml", "templates/binary.txt", "templates/direct.txt"}
    tasks = {
        "popqa_dedup.yaml",
        "_direct_yaml",
        "manifests/popqa.jsonl",
        "worldfacts/test.jsonl",
        "worldfacts/LICENCE.md",
    }
    wanted = {f"closedbook/harness/{name}" for name in package} | {f"lm_eval/tasks/closedbook/{name}" for name in tasks}
    wanted |= {f"closedbook/training/{name}" for name in ("recipes/grpo_paper.yaml", "accelerate/ddp.yaml")}
    wanted |= {"closedbook/py.typed"}  # for all that is in it
    assert wanted <= names_in(wheel)


def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names_in(wheel))


def test_the_sdist_holds_what_a_build_and_its_tests_need(checkout: Path, built: Path) -> None:
    needed = {"pyproject.toml", "LICENSE", "README.md", "Makefile", "ci/hatch_build.py", "ci/constraints.txt"}
    needed |= {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "mkdocs.yml", "ci/release"}
    tops = ("docs", "harness", "tasks", "tests", "training")
    sources = {f"{top}/{name}" for top in tops for name in files_under(checkout / top)}
    assert needed | sources <= names_in_sdist(built)


def test_the_sdist_holds_nothing_that_was_built(built: Path) -> None:
    tops = {PurePosixPath(name).parts[0] for name in names_in_sdist(built) if name != "."}
    assert not tops & {"build", "dist", "runs", ".git", ".venv", ".venv-vllm"}


def test_a_wheel_from_the_checkout_equals_the_one_from_the_sdist(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(checkout)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert next(tmp_path.glob("*.whl")).read_bytes() == wheel.read_bytes()


def test_lm_eval_finds_the_tasks_without_a_flag(installed: Environment) -> None:
    assert "All tasks found and valid" in installed.run("lm_eval", "validate", "--tasks", "popqa_dedup,closedbook")


def test_tasks_path_names_a_folder_for_include_path(installed: Environment) -> None:
    assert (Path(installed.run("closedbook", "tasks", "path").strip()) / "popqa_dedup.yaml").is_file()


def test_help_works(installed: Environment) -> None:
    assert "dedup" in installed.run("closedbook", "--help")


def test_the_package_is_found_before_folders_of_the_same_name(installed: Environment) -> None:
    code = "import closedbook.harness, closedbook.training; print(closedbook.harness.__file__)"
    assert str(installed.elsewhere) not in installed.run("python", "-c", code)


def test_a_type_checker_sees_our_types(installed: Environment, tmp_path: Path) -> None:
    """Without the marker there would be other errors."""
    use = "closedbook.load_environment(1)\nadvantages.signal_probability('', 1)"
    code = f"import closedbook; from closedbook.training import advantages\n{use}"
    places = {"--cache-dir": installed.elsewhere / "types", "--python-executable": installed.folder / "bin" / "python"}
    options = ("--config-file=", "--no-error-summary", *(f"{name}={path}" for name, path in places.items()))
    command = [sys.executable, "-m", "mypy", *options, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    wrong = {"load_environment": ("int", "str"), "signal_probability": ("str", "float")}
    assert done.stdout.splitlines() == [
        f'<string>:{line}: error: Argument 1 to "{name}" has incompatible type "{given}"; expected "{due}"  [arg-type]'
        for line, (name, (given, due)) in enumerate(wrong.items(), 2)
    ], done.stderr


def test_the_package_offers_its_environment_to_verifiers(installed: Environment) -> None:
    code = "import closedbook, sys; print(*closedbook.__all__, *{'datasets', 'openai', 'lm_eval'} & {*sys.modules})"
    assert installed.run("python", "-c", code).split() == [
        "AskOnce", "ClosedbookEnv", "ClosedbookTaskset", "load_environment"
    ]  # fmt: skip


@pytest.mark.parametrize("heavy", ["torch", "transformers", "trl", "vllm"])
def test_a_base_install_is_small(installed: Environment, heavy: str) -> None:
    found = installed.run("python", "-c", f"import importlib.util as u; print(u.find_spec({heavy!r}))")
    assert found.strip() == "None"
