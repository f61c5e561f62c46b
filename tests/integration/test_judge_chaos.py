"""The judge survives: a server that misbehaves and restarts, a SIGKILL in the middle, two processes on one cache."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from closedbook.harness.judge import Grade, JudgeFailure, JudgeSettings, LLMJudge, Triple

BIN = Path(sys.executable).parent
SERVER = Path(__file__).with_name("chaos_server.py")


class Chaos:
    """A server that can be started again on the same port."""

    def __init__(self, folder, seed, calm=False):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log, self.seed, self.calm = folder / "verdicts", seed, calm
        self.log.touch()
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        command = [sys.executable, SERVER, self.port, self.seed, self.log, *(["calm"] if self.calm else [])]
        self.process = subprocess.Popen([str(part) for part in command])
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        pytest.fail("the server did not start")

    def stop(self):
        self.process.kill()
        self.process.wait()

    @property
    def verdicts(self):
        """How often each answer got a verdict."""
        return Counter(self.log.read_text().split())


def test_5000_answers_survive_a_server_that_misbehaves_and_restarts(tmp_path):
    triples = [Triple("which is it", ("Some Body Else",), f"answer number {n}") for n in range(5000)]
    with Chaos(tmp_path, seed=2605) as server:
        stated = {
            "kind": "openai", "model": "m", "base_url": server.url, "concurrency": 64, "timeout": 1.0, "retries": 6,
            "cache": str(tmp_path / "replies.sqlite"),
        }  # fmt: skip
        judge = LLMJudge(JudgeSettings.model_validate(stated))
        judge.preflight()

        def restart():
            time.sleep(3)
            server.stop()
            time.sleep(0.5)
            server.start()

        trouble = threading.Thread(target=restart)
        trouble.start()
        judged = judge.grade(triples)
        trouble.join()
        verdicts = server.verdicts
    assert len(judged) == 5000
    failures = [judgement for judgement in judged if isinstance(judgement, JudgeFailure)]
    assert all(failure.reason in {"server", "timeout"} and failure.detail for failure in failures)
    assert len(failures) < 50
    for number, judgement in enumerate(judged):
        if judgement not in failures:
            assert judgement is (Grade.CORRECT if number % 3 == 0 else Grade.INCORRECT)
            assert verdicts[str(number)] >= 1
    with sqlite3.connect(tmp_path / "replies.sqlite") as database:
        assert database.execute("SELECT count(*) FROM replies").fetchone() == (5000 - len(failures),)
        (calls,) = database.execute("SELECT count(*) FROM calls").fetchone()
    assert calls == judge.spending.calls == 5000 - len(failures) + 1


CONCURRENCY = 16


def answers(folder, count):
    path = folder / "answers.jsonl"
    rows = ({"question": "q", "golds": ["Some Body Else"], "answer": f"answer number {n}"} for n in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def grading(path, server, out, cache, **options):
    command = [
        BIN / "closedbook", "judge", "grade", path, "--out", out, "--judge", "openai", "--judge-model", "m",
        "--judge-url", server.url, "--judge-set", f"concurrency={CONCURRENCY}", "--judge-set", f"cache={cache}",
        "--json",
    ]  # fmt: skip
    return subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **options
    )


def finished(process):
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out


def test_a_killed_run_repeats_only_the_calls_that_were_under_way(tmp_path):
    path, cache = answers(tmp_path, 1500), tmp_path / "replies.sqlite"
    with Chaos(tmp_path, seed=1, calm=True) as server:
        killed = grading(path, server, tmp_path / "out.jsonl", cache, start_new_session=True)
        while len(server.verdicts) < 500:
            time.sleep(0.02)
            assert killed.poll() is None
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
        assert not (tmp_path / "out.jsonl").exists()
        table = finished(grading(path, server, tmp_path / "out.jsonl", cache))
        verdicts = server.verdicts
        undisturbed = finished(grading(path, server, tmp_path / "undisturbed.jsonl", tmp_path / "other.sqlite"))
    assert len(verdicts) == 1500
    assert sum(verdicts.values()) - 1500 <= CONCURRENCY
    assert table == undisturbed
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


def test_two_runs_at_once_share_a_cache_without_a_lost_or_doubled_row(tmp_path):
    path, cache = answers(tmp_path, 1000), tmp_path / "replies.sqlite"
    with Chaos(tmp_path, seed=1, calm=True) as server:
        both = [grading(path, server, tmp_path / f"{n}.jsonl", cache) for n in range(2)]
        tables = [finished(process) for process in both]
        sent = sum(server.verdicts.values())
    assert tables[0] == tables[1]
    assert (tmp_path / "0.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()
    with sqlite3.connect(cache) as database:
        assert database.execute("SELECT count(*), count(DISTINCT key) FROM replies").fetchone() == (1000, 1000)
        assert database.execute("SELECT count(*) FROM calls").fetchone() == (sent + 2,)  # and two preflights
