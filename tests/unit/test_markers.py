"""The markers of tests/conftest.py, tried on a small suite in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
import os
import pytest

@pytest.mark.data
def test_data(): assert os.environ["CLOSEDBOOK_DATA"]

@pytest.mark.gpu
def test_gpu(): import torch; assert torch.cuda.is_available()

def test_sees_no_setting_and_leaves_one(): os.environ["LEFT"] = str("CLOSEDBOOK_DATA" not in os.environ)

def test_finds_nothing_left(): assert "LEFT" not in os.environ
"""


@pytest.fixture
def run_suite(tmp_path: Path) -> Callable[..., str]:
    for kind in ("unit", "property"):
        (tmp_path / "tests" / kind).mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "unit" / "test_suite.py").write_text(SUITE)

    def run(only: str = "", **variables: str) -> str:
        config = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider", "-vk", only]
        command = [sys.executable, "-m", "pytest", *config, str(tmp_path / "tests")]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CLOSEDBOOK_")}
        environment = inherited | {"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"} | variables
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout

    return run


def test_a_test_is_skipped_with_the_reason_where_its_need_is_missing(run_suite: Callable[..., str]) -> None:
    report = run_suite()
    assert "2 passed, 2 skipped" in report
    assert "set CLOSEDBOOK_DATA to a folder with the real benchmarks" in report
    assert "torch sees no CUDA device" in report


def test_a_test_fails_where_its_need_is_required(run_suite: Callable[..., str]) -> None:
    report = run_suite(CLOSEDBOOK_REQUIRE_DATA="1", CLOSEDBOOK_REQUIRE_GPU="1")
    assert "2 passed, 2 errors" in report
    assert "CLOSEDBOOK_REQUIRE_DATA=1, but set CLOSEDBOOK_DATA" in report
    assert "CLOSEDBOOK_REQUIRE_GPU=1, but torch sees no CUDA device" in report


def test_only_a_test_with_the_marker_sees_the_real_data(run_suite: Callable[..., str]) -> None:
    report = run_suite("not gpu", CLOSEDBOOK_DATA="anywhere")
    assert "3 passed, 1 deselected" in report
    assert "test_data PASSED" in report


def test_coverage_traces_unit_tests_that_need_nothing_and_no_others(
    run_suite: Callable[..., str], tmp_path: Path
) -> None:
    begin = "import sys, pytest\nsys.settrace(lambda *_: None)\n"
    untraced = "def test_line_b(): assert sys.gettrace() is None\n"
    unit = f"def test_line_a(): assert sys.gettrace()\n@pytest.mark.data\n{untraced}def test_line_c(): test_line_a()\n"
    (tmp_path / "tests" / "unit" / "test_lines.py").write_text(begin + unit)
    (tmp_path / "tests" / "property" / "test_lines_too.py").write_text(begin + untraced)
    assert "4 passed" in run_suite("line", CLOSEDBOOK_DATA="anywhere")
