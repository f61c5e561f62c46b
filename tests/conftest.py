"""What every test shares: markers that skip or fail, a clean environment, Hypothesis profiles, a made-up mirror.

A marker names what a test needs. Where that is missing the test is skipped and says why; with CLOSEDBOOK_REQUIRE_<NAME>
set to 1, as on a machine that exists for such tests, it fails instead, so that nothing is skipped unseen.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]


class Need(NamedTuple):
    """What a marker asks for: why it is not there (None where it is), and the variables that such a test may see."""

    missing: Callable[[], str | None]
    sees: frozenset[str] = frozenset()


def _no_data() -> str | None:
    return None if os.environ.get("CLOSEDBOOK_DATA") else "set CLOSEDBOOK_DATA to a folder with the real benchmarks"


@cache
def _no_gpu() -> str | None:
    if not find_spec("torch"):
        return "torch is not installed"
    import torch

    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def _no_model() -> str | None:
    absent = [package for package in ("gguf", "torch", "transformers") if not find_spec(package)]
    return f"not installed: {', '.join(absent)}" if absent else None


def _no_vllm() -> str | None:
    beside = ROOT / ".venv-vllm" / "bin" / "vllm"
    return None if find_spec("vllm") or beside.is_file() else f"vllm is not installed, and there is no {beside}"


def _no_suites() -> str | None:
    absent = [str(beside) for suite in ("lighteval", "verifiers") if not (beside := ROOT / f".venv-{suite}").is_dir()]
    return f"there is no {' and no '.join(absent)}; `make suites-env`" if absent else None


def _no_paper() -> str | None:
    absent = [name for name in PAPER if not os.environ.get(name)]
    return f"set {', '.join(absent)}" if absent else None


PAPER = ("CLOSEDBOOK_PAPER_MODEL", "CLOSEDBOOK_JUDGE", "CLOSEDBOOK_JUDGE_MODEL")
NEEDS = {
    "data": Need(_no_data, frozenset({"CLOSEDBOOK_DATA"})),
    "gpu": Need(_no_gpu, frozenset({"CLOSEDBOOK_GPU_OUT"})),
    "model": Need(_no_model, frozenset({"CLOSEDBOOK_CACHE"})),
    "paper": Need(_no_paper, frozenset({*PAPER, "CLOSEDBOOK_JUDGE_BASE_URL", "OPENAI_API_KEY"})),
    "suites": Need(_no_suites, frozenset({"CLOSEDBOOK_CACHE"})),
    "vllm": Need(_no_vllm, frozenset({"CLOSEDBOOK_CACHE"})),
}


def skip_or_fail(marker: str, reason: str) -> None:
    """Skip the running test, or fail it where its need is required; also for fixtures that find out late."""
    variable = f"CLOSEDBOOK_REQUIRE_{marker.upper()}"
    if os.environ.get(variable) == "1":
        pytest.fail(f"{variable}=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def _needs(node: pytest.Item) -> dict[str, Need]:
    return {marker: need for marker, need in NEEDS.items() if node.get_closest_marker(marker)}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test whose needs are not met, before any fixture runs."""
    for marker, need in _needs(item).items():
        if reason := need.missing():
            skip_or_fail(marker, reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Count coverage in unit tests that need nothing, and trace no others: traced, a test takes twice as long.

    Not by pytest-cov's mark `no_cover`: a worker of xdist holds a second tracer, which that mark lets go on.
    """
    if item.path.is_relative_to(ROOT / "tests" / "unit") and not _needs(item):
        return (yield)
    tracers = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)
    try:
        return (yield)
    finally:
        threading.settrace(tracers[1])
        sys.settrace(tracers[0])


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests off the network and out of the user's caches; libraries read these variables when imported."""
    home = tempfile.TemporaryDirectory(prefix="closedbook-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(home.cleanup)
    os.environ.pop("CLOSEDBOOK_BENCHMARKS", None)  # a benchmark of one's own would be a test's parameter
    os.environ.update(HF_HOME=home.name, HF_HUB_OFFLINE="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
    settings.register_profile("default", deadline=None)
    settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


@pytest.fixture(autouse=True)
def clean_environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the settings or caches of the person who runs it, or leaves any behind."""
    before = dict(os.environ)
    seen = frozenset[str]().union(*(need.sees for need in _needs(request.node).values()))
    for name in before:
        ours = name.startswith("CLOSEDBOOK_") and not name.startswith("CLOSEDBOOK_REQUIRE_")
        if (ours or name == "OPENAI_API_KEY") and name not in seen:
            del os.environ[name]
    if "CLOSEDBOOK_CACHE" not in seen:
        os.environ["CLOSEDBOOK_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The folder of SmolLM2-135M-Instruct, prepared once a machine."""
    from closedbook.harness.errors import WorkError
    from closedbook.harness.small_model import small_model_dir

    try:
        return small_model_dir()
    except WorkError as error:
        skip_or_fail("model", str(error))
        raise


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, Sequence[Mapping[str, Any]]], Path]:
    """Writes made-up rows of one split into a mirror folder, which CLOSEDBOOK_DATA names; returns the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from closedbook.harness.sources import benchmark, mirror_file

    monkeypatch.setenv("CLOSEDBOOK_DATA", str(tmp_path / "mirror"))

    def write(name: str, split: str, rows: Sequence[Mapping[str, Any]]) -> Path:
        file = mirror_file(benchmark(name), split)
        assert file is not None
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
        return file

    return write


@pytest.fixture
def popqa_row() -> Callable[..., dict[str, Any]]:
    """Makes a row with the columns of PopQA that are read."""

    def row(
        question: str = "What is Ada's occupation?",
        answers: Sequence[str] = ("weaver",),
        *,
        subject: str = "Ada",
        relation: str = "occupation",
        uris: tuple[str, str] = ("s/1", "o/1"),
    ) -> dict[str, Any]:
        return {
            "question": question,
            "possible_answers": json.dumps(list(answers)),
            "subj": subject,
            "prop": relation,
            "s_uri": uris[0],
            "o_uri": uris[1],
            "s_pop": 7,
        }

    return row
