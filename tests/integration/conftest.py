"""What is dear and shared by the integration tests: a real vLLM server, and a study."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STARTUP = 300  # seconds that a vLLM server on the CPU may take


@dataclass(frozen=True)
class VLLM:
    """A running server and the environment that it came from."""

    bin: Path
    url: str
    model: str


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def own_judge_cache(clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replies of a test's judge are not kept for the next one."""
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_CACHE", str(tmp_path / "judge.sqlite"))


@pytest.fixture(scope="session")
def vllm_bin() -> Path:
    """The scripts of the environment with vLLM: this one, or .venv-vllm beside the checkout."""
    here = Path(sys.executable).parent
    return here if (here / "vllm").is_file() else ROOT / ".venv-vllm" / "bin"


@pytest.fixture(scope="session")
def lighteval_bin() -> Path:
    """The scripts of lighteval's environment, beside the checkout."""
    return ROOT / ".venv-lighteval" / "bin"


@pytest.fixture(scope="session")
def verifiers_bin() -> Path:
    """The scripts of verifiers' environment, beside the checkout."""
    return ROOT / ".venv-verifiers" / "bin"


@pytest.fixture(scope="session")
def narrow_model(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with settings for generation that leave one token to draw from, as Qwen's leave twenty."""
    folder = tmp_path_factory.mktemp("narrow-model")
    for file in small_model.iterdir():
        (folder / file.name).symlink_to(file)
    settings = folder / "generation_config.json"
    stated = json.loads(settings.read_text(encoding="utf-8"))
    settings.unlink()
    settings.write_text(json.dumps(stated | {"do_sample": True, "top_k": 1}))
    return folder


@pytest.fixture(scope="session")
def vllm_server(narrow_model: Path, vllm_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    """`vllm serve` with the small model on loopback."""
    port = _free_port()
    log = tmp_path_factory.mktemp("vllm") / "log"
    command: list[str | Path] = [
        vllm_bin / "vllm", "serve", narrow_model, "--served-model-name", "small", "--host", "127.0.0.1",
        "--port", str(port), "--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "1024",
        "--no-enable-chunked-prefill",  # a seeded prompt in pieces ends vLLM 0.31 on a CPU
    ]  # fmt: skip
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
        try:
            _wait_until_healthy(f"http://127.0.0.1:{port}/health", server, log)
            yield VLLM(vllm_bin, f"http://127.0.0.1:{port}/v1", "small")
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


def _wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTUP
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"vllm serve ended with {server.returncode}:\n{log.read_text()[-3000:]}", pytrace=False)
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"vllm serve was not up after {STARTUP} s:\n{log.read_text()[-3000:]}", pytrace=False)


@pytest.fixture(scope="session")
def reproduced() -> Callable[[Path], list[dict[str, object]]]:
    """Runs a small study to its end in a folder: its stages as `--json` prints them.

    Three of its five methods are left out, whose stages are of no other kind than the others'; each takes a minute.
    """
    fewer = [f"methods.{method}=null" for method in ("rft", "dpo", "grpo_exact_match")]

    def run(out: Path) -> list[dict[str, object]]:
        study = ROOT / "training" / "recipes" / "study_cpu.yaml"
        command = [sys.executable, "-m", "closedbook.harness.cli", "reproduce", "--config", str(study), "--smoke"]
        command += ["--out", str(out), "--json", *fewer]
        alone = os.environ | {"OMP_NUM_THREADS": "1"}  # beside another worker's tests two threads wait for each other
        done = subprocess.run(command, capture_output=True, text=True, env=alone)
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, object]] = json.loads(done.stdout)
        return rows

    return run


@pytest.fixture(scope="session")
def whole_study(
    tmp_path_factory: pytest.TempPathFactory,
    small_model: Path,
    reproduced: Callable[[Path], list[dict[str, object]]],
) -> Path:
    """The folder of a finished study: every kind of stage of study_cpu with a few questions."""
    out = tmp_path_factory.mktemp("study") / "out"
    assert {row["state"] for row in reproduced(out)} == {"done"}
    return out
