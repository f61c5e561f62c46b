"""The hub path, for real: a small hub on loopback, the mirror beside it, and the cache that a first run leaves.

The libraries read their environment when imported, so each reading is a process of its own with a cache of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Read = Callable[..., subprocess.CompletedProcess[str]]
SHA = "5" * 40
READ = """
import json, sys
from dataclasses import asdict
from closedbook.harness.errors import ClosedbookError
from closedbook.harness.sources import read_source
try:
    print(json.dumps([asdict(question) for question in read_source(*sys.argv[1:]).questions]))
except ClosedbookError as error:
    sys.exit(str(error))
"""
SPOOL = """
import sys
from pathlib import Path
from closedbook.harness.dedup.own_rows import HubSet, fetched
print(fetched(HubSet(*sys.argv[1:4]), Path(sys.argv[4])))
"""
TRIVIAQA_CARD = """---
configs:
- config_name: rc
  data_files:
  - split: train
    path: rc/train-*
- config_name: unfiltered.nocontext
  data_files:
  - split: train
    path: unfiltered.nocontext/train-*
  - split: validation
    path: unfiltered.nocontext/validation-*
---
"""
TRIVIAQA_ROWS = [
    {
        "question": "Who wove the sails?",
        "question_id": "1",
        "answer": {"value": "Ada", "aliases": ["Ada", "ADA", "Ms Ada"]},
    },
    {
        "question": "Which river\u00a0turns back?",
        "question_id": "2",
        "answer": {"value": "Ouzel", "aliases": ["Ouzel"]},
    },
]


class Hub(ThreadingHTTPServer):
    """Serves folders `<owner>/<name>` below a root as data sets, with the few endpoints that a download needs."""

    root: Path
    asked: list[str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Endpoints(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(path)
        kind, *parts = path.removeprefix("/api/").strip("/").split("/")
        repo, rest = "/".join(parts[:2]), parts[2:]
        folder = self.server.root / repo
        files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
        if kind != "datasets" or not files:
            self.missing("RepoNotFound")
        elif not path.startswith("/api/"):  # resolve/<revision>/<file>
            self.file(folder / "/".join(rest[2:]))
        elif rest[:1] == ["tree"]:
            self.tree(folder, folder / "/".join(rest[2:]))
        else:
            siblings = [{"rfilename": name} for name in files]
            self.json({"id": repo, "sha": SHA, "siblings": siblings, "private": False, "disabled": False, "tags": []})

    do_HEAD = do_GET

    def tree(self, folder: Path, below: Path) -> None:
        if below.is_dir():
            found = below.rglob("*") if "recursive=true" in self.path.lower() else below.iterdir()
            self.json([self.entry(folder, path) for path in sorted(found)])
        else:
            self.missing("EntryNotFound")

    def entry(self, folder: Path, path: Path) -> dict[str, Any]:
        kind = "directory" if path.is_dir() else "file"
        return {"type": kind, "path": str(path.relative_to(folder)), "oid": SHA, "size": path.stat().st_size}

    def file(self, file: Path) -> None:
        if file.is_file():
            self.answer(200, file.read_bytes(), ETag=f'"{file.name}-{file.stat().st_size}"')
        else:
            self.missing("EntryNotFound")

    def json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def missing(self, code: str) -> None:
        self.answer(404, b"{}", **{"X-Error-Code": code})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": SHA, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def write(rows: list[dict[str, Any]], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


@pytest.fixture(scope="module")
def popqa_rows() -> list[dict[str, Any]]:
    row = {"id": 1, "subj": "Ada", "prop": "occupation", "s_uri": "s/1", "o_uri": "o/1", "s_pop": 7, "o_pop": 9}
    asked = {"question": "What is Ada's occupation?", "possible_answers": '["weaver", "Weaver"]'}
    twin = {"s_uri": "s/2", "possible_answers": '["poet"]'}
    return [row | asked, row | asked | twin, row | asked | {"subj": "", "question": "What is the occupation?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, popqa_rows: list[dict[str, Any]]) -> Path:
    """The same made-up rows in the layout of the hub and in that of a mirror."""
    folder = tmp_path_factory.mktemp("hub")
    write(popqa_rows, folder / "hub/akariasai/PopQA/test-00000-of-00001.parquet")
    write(popqa_rows, folder / "mirror/akariasai__PopQA/test.parquet")
    triviaqa = folder / "hub/mandarjoshi/trivia_qa"
    for split in ("train", "validation"):
        write(TRIVIAQA_ROWS, triviaqa / f"unfiltered.nocontext/{split}-00000-of-00001.parquet")
        write(TRIVIAQA_ROWS, folder / f"mirror/mandarjoshi__trivia_qa/unfiltered.nocontext/{split}.parquet")
    write(TRIVIAQA_ROWS[:1], triviaqa / "rc/train-00000-of-00001.parquet")
    (triviaqa / "README.md").write_text(TRIVIAQA_CARD)
    return folder


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[Hub]:
    with Hub(("127.0.0.1", 0), Endpoints) as server:
        server.root, server.asked = folder / "hub", []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def read(hub: Hub) -> Read:
    def run(*what: str, home: Path, script: str = READ, **variables: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "CLOSEDBOOK_"))}
        environment = inherited | {"HF_HOME": str(home), "HF_ENDPOINT": hub.url} | variables
        return subprocess.run([sys.executable, "-c", script, *what], env=environment, capture_output=True, text=True)

    return run


SOURCES = pytest.mark.parametrize(("name", "split"), [("popqa", "test"), ("triviaqa", "validation")])


@SOURCES
def test_hub_mirror_and_prepared_cache_give_the_same_questions(
    read: Read, hub: Hub, folder: Path, tmp_path: Path, name: str, split: str
) -> None:
    hub.asked.clear()
    from_hub = read(name, split, home=tmp_path / "home")
    assert any(".parquet" in path for path in hub.asked), from_hub.stderr
    mirror = read(name, split, home=tmp_path / "other", CLOSEDBOOK_DATA=str(folder / "mirror"))
    hub.asked.clear()
    cached = read(name, split, home=tmp_path / "home", HF_HUB_OFFLINE="1")
    assert hub.asked == []
    assert from_hub.stdout == mirror.stdout == cached.stdout
    assert [question["benchmark"] for question in json.loads(cached.stdout)] in (["popqa"], ["triviaqa"] * 2)


def test_rows_from_the_hub_are_merged_and_cleaned(read: Read, tmp_path: Path) -> None:
    (popqa,) = json.loads(read("popqa", "test", home=tmp_path).stdout)
    assert popqa["answers"] == ["weaver", "poet"]
    triviaqa = json.loads(read("triviaqa", "train", home=tmp_path).stdout)
    assert [question["question"] for question in triviaqa] == ["Who wove the sails?", "Which river turns back?"]


def test_a_data_set_that_the_hub_lacks_is_told_in_one_line(read: Read, tmp_path: Path) -> None:
    failed = read("simpleqa", "test", home=tmp_path)
    (line,) = failed.stderr.splitlines()
    assert line.startswith("simpleqa: cannot read basicv8vc/SimpleQA, split test: DatasetNotFoundError: ")
    assert line.endswith("; check the network, or set CLOSEDBOOK_DATA to a mirror")


def test_a_training_set_on_the_hub_is_streamed_to_a_file_once(read: Read, hub: Hub, tmp_path: Path) -> None:
    wanted = ("mandarjoshi/trivia_qa", "unfiltered.nocontext", "train", str(tmp_path / "parts"))
    first = read(*wanted, home=tmp_path / "home", script=SPOOL)
    (path,) = map(Path, first.stdout.splitlines())
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == TRIVIAQA_ROWS
    hub.asked.clear()
    assert read(*wanted, home=tmp_path / "home", script=SPOOL).stdout == first.stdout
    assert hub.asked and not any(".parquet" in asked for asked in hub.asked)
