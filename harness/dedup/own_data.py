"""`closedbook dedup run`: which rows of somebody's own training set state a fact that our test questions ask for?

The test questions are indexed once, the training rows stream past them in chunks, on as many processes as there are
processors. Each finished chunk is saved in the folder `.parts` of the output folder, so that a run that was killed goes
on where it was, and ends with the same files, byte for byte.

What surprises: a row that is UNSURE counts as a match, as it does in our own splits. A row without answers can be no
more than that, so it must have most words in common with a test question: of 2,000 rows of NQ and PopQA stripped of
their answers 9 in 100 match, many of them without need; of 150 labelled pairs of one fact 113 are found. Neighbours by
words (BM25) are sought among all test questions that are compared with, so a choice of other benchmarks can change
which of the less similar rows match.

    >>> request = Request("my_train.jsonl", against=("worldfacts",))
    >>> request.folder
    PosixPath('dedup-my_train')
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from closedbook.harness.dedup.candidates import RETRIEVAL, pairs_found, retrievers
from closedbook.harness.dedup.own_rows import (
    LONGEST,
    Columns,
    HubSet,
    Row,
    choose_columns,
    fetched,
    file_digest,
    format_of,
    is_hub_id,
    read_rows,
    require_readable,
    survey,
)
from closedbook.harness.dedup.profiles import profile
from closedbook.harness.dedup.rules import RULES, balance, overlap, rules
from closedbook.harness.errors import RequestError, WorkError, one_line
from closedbook.harness.files import write_text, written_aside
from closedbook.harness.manifests import load_questions, read_manifest
from closedbook.harness.questions import Question, unique_answers
from closedbook.harness.sources import benchmark, benchmarks
from closedbook.harness.text import words

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

CHUNK = 2_000  # rows that are compared, saved and lost together
REMEMBERED = 8_000_000  # characters of rows whose profiles may stay in memory
BY_WORDS = 0.6  # share of what two questions say that must be common where the row has no answers
MOST_WORKERS = 8  # each holds the test questions, some hundred megabytes
OWN = "train"  # stands for a benchmark in questions made of training rows; they have no facts and fill no forms
MATCHES, REPORT = "matches.jsonl", "report.json"
SPLITS = {"test": ("test",), "validation": ("validation",), "both": ("test", "validation")}

Watch = Callable[[int, int], None]
"""Told how many rows are compared, and of how many."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        train: A file, or the id of a data set on the hub.
        against: Names of benchmarks, or "all".
        split: Which of our questions: "test", "validation" or "both".
        question, answer, id: Columns; the usual names are tried where none is stated.
        hub_config, hub_split: Which part of a data set on the hub.
        out: Folder for the results.
    """

    train: str
    against: tuple[str, ...] = ("all",)
    split: str = "test"
    question: str | None = None
    answer: str | None = None
    id: str | None = None
    hub_config: str | None = None
    hub_split: str = "train"
    out: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or Path(f"dedup-{Path(self.train).name if is_hub_id(self.train) else Path(self.train).stem}")

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks to compare with, each once.

        Raises:
            RequestError: One of them does not exist.
        """
        names = [name for name in dict.fromkeys(self.against) if name == "all" or benchmark(name)]
        return list(benchmarks()) if "all" in names else names


class Match(NamedTuple):
    """A training row that states the fact of one of our questions; one line of matches.jsonl."""

    row: int
    row_id: str
    benchmark: str
    question: str
    verdict: str
    rule: str
    score: float


class Part(NamedTuple):
    """What was found in a chunk: how many rows of each kind, and the matches in order."""

    counts: Mapping[str, int]
    matches: list[Match]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run: what report.json holds, and where the results lie."""

    report: Mapping[str, Any]
    folder: Path
    filtered: Path


def row_question(row: Row) -> Question:
    """A training row as a question; its id is the row's number."""
    return Question(str(row.number), OWN, " ".join(row.question.split()), unique_answers(row.answers))


def kinds(row: Row) -> Iterator[str]:
    """What a row counts as in the report."""
    yield "read"
    if row.skipped:
        yield f"skipped: {row.skipped}"
    elif not row.answers:
        yield "without answers"
    if row.cut:
        yield "cut"


def alike_by_words(ours: Question, theirs: Question) -> bool:
    """Whether most of what two questions say, on either side, is common to both.

    Asked where a row has no answers. The rules forgive all that the longer question adds, since answers that agree
    vouch for it; without answers "on which continent is Laos" would match "the capital of Laos", and a third of NQ.
    """
    a, b = profile(ours), profile(theirs)
    weighed = balance(a, b, overlap(a, b), frozenset())
    return a.key == b.key or weighed.told >= BY_WORDS * (weighed.told + weighed.poorer + weighed.richer)


@dataclass(slots=True)
class Matcher:
    """The test questions, indexed once, that chunks of training rows are compared with.

    All retrievers are used, although BM25 takes a third of the time: those that look for answers find no row without
    answers, and of the matches of 6,000 rows of NQ and PopQA one in six was found by BM25 alone.
    """

    questions: Sequence[Question]
    _near: Callable[[Sequence[Question]], Iterator[tuple[Question, Question]]] = field(init=False)
    _remembered: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        ordered = sorted(self.questions, key=lambda question: question.id)
        indices = retrievers(ordered)
        self._near = lambda queries: pairs_found(queries, ordered, indices.values())

    def compare(self, rows: Sequence[Row]) -> Part:
        """What a chunk of rows holds."""
        usable = {str(row.number): row for row in rows if not row.skipped}
        pairs = list(self._near([row_question(row) for row in usable.values()]))
        decided = zip(pairs, rules((ours, theirs) for theirs, ours in pairs), strict=True)
        matches = [
            Match(
                usable[d.candidate].number, usable[d.candidate].id, ours.benchmark, ours.id, d.verdict, d.rule, d.score
            )
            for (theirs, ours), d in decided
            if d.drops and (theirs.answers or alike_by_words(ours, theirs))
        ]
        self._forget(usable.values())
        return Part(Counter(kind for row in rows for kind in kinds(row)), matches)

    def _forget(self, rows: Iterable[Row]) -> None:
        """Empty the caches now and then: they count entries, however long, and rows may be long.

        Not after each chunk, because the profiles of the test questions go too and are made again as they are needed.
        """
        self._remembered += sum(len(row.question) + sum(map(len, row.answers)) for row in rows)
        if self._remembered > REMEMBERED:
            profile.cache_clear()
            words.cache_clear()
            self._remembered = 0


def chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows in chunks of equal length; the last one may be shorter."""
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


_matcher: Matcher | None = None  # of a worker process


def _start_worker(questions: Sequence[Question], alive: Connection) -> None:
    """Make a worker ready, and have it end when the main process lets go of its end of the pipe, or is killed."""
    global _matcher
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one decides

    def end_with_main() -> None:
        try:
            alive.recv()
        except (EOFError, OSError):
            os._exit(1)

    Thread(target=end_with_main, daemon=True).start()
    _matcher = Matcher(questions)


def _work(rows: list[Row]) -> Part:
    assert _matcher is not None  # _start_worker ran
    return _matcher.compare(rows)


Numbered = tuple[int, list[Row]]


def compared(todo: Iterator[Numbered], questions: Sequence[Question], workers: int) -> Iterator[tuple[int, Part]]:
    """The parts of numbered chunks, as they are finished; by this process alone where there is one worker.

    Raises:
        WorkError: A worker was ended from outside, as happens where memory is short.
    """
    if workers < 2:
        matcher = cache(lambda: Matcher(questions))  # not made where nothing is to do
        yield from ((at, matcher().compare(rows)) for at, rows in todo)
        return
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, context, _start_worker, (questions, theirs))
    try:
        yield from _shared_out(executor, todo, 2 * workers)
        executor.shutdown()
    except BrokenProcessPool as error:
        raise WorkError("a worker process was ended, short of memory? The same command again goes on") from error
    finally:
        ours.close()  # ends workers that are still busy, where an error or Ctrl-C ends this
        executor.shutdown(cancel_futures=True)


def _shared_out(executor: ProcessPoolExecutor, todo: Iterator[Numbered], most: int) -> Iterator[tuple[int, Part]]:
    """Give chunks to the workers, no more at once than `most`, and hand on what they find."""
    pending: dict[Future[Part], int] = {}
    while True:
        for at, rows in islice(todo, most - len(pending)):
            pending[executor.submit(_work, rows)] = at
        if not pending:
            return
        for done in wait(pending, return_when=FIRST_COMPLETED).done:
            yield pending.pop(done), done.result()


@dataclass(frozen=True, slots=True)
class Parts:
    """The folder of finished chunks, good for one set of inputs only."""

    folder: Path

    def path(self, at: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"{at:08d}.json"

    def begin(self, key: str) -> None:
        """Keep what an earlier run with the same inputs saved, drop what another one did.

        Raises:
            RequestError: Nothing can be written here.
        """
        stored = self.folder / "inputs.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (stored.is_file() and stored.read_text(encoding="utf-8") == key):
                for old in (*self.folder.glob("0*.json"), *self.folder.glob(".*.tmp")):
                    old.unlink()
                write_text(stored, key)
        except (OSError, ValueError, WorkError) as error:
            raise RequestError(f"cannot write to {self.folder}: {one_line(error)}; choose another --out") from error

    def save(self, at: int, part: Part) -> None:
        """Save what was found in a chunk, whole or not at all."""
        write_text(self.path(at), json.dumps({"counts": dict(part.counts), "matches": part.matches}) + "\n")

    def load(self, at: int) -> Part:
        """What was found in a chunk."""
        saved = json.loads(self.path(at).read_text(encoding="utf-8"))
        return Part(saved["counts"], [Match(*match) for match in saved["matches"]])

    def all(self) -> Iterator[Part]:
        """All parts, in order."""
        return map(self.load, range(len(list(self.folder.glob("0*.json")))))


class Tally:
    """Counts of a run, part by part; rows and test questions are counted once in each group they belong to."""

    def __init__(self, rows: int) -> None:
        self.counts: Counter[str] = Counter()
        self.marked = bytearray(rows + 1)  # 1 for a row that matches; rows are numbered from 1
        self._rows: Counter[tuple[str, str]] = Counter()
        self._questions: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def add(self, part: Part) -> None:
        """Count one part; a row lies in one part only."""
        self.counts.update(part.counts)
        groups: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for match in part.matches:
            self.marked[match.row] = 1
            named = (("overall", ""), ("benchmark", match.benchmark), ("rule", match.rule), ("verdict", match.verdict))
            for group in named:
                groups[group].add(match.row)
                self._questions[group].add(match.question)
        self._rows.update({group: len(found) for group, found in groups.items()})

    def group(self, kind: str, name: str = "") -> dict[str, int]:
        """Rows that match, and test questions that are contained, in one group."""
        return {"rows": self._rows[kind, name], "questions": len(self._questions[kind, name])}

    def groups(self, kind: str) -> dict[str, dict[str, int]]:
        """The same for all groups of a kind, by name."""
        return {name: self.group(kind, name) for of, name in sorted(self._rows) if of == kind}


def _inputs(train: Path, request: Request, columns: Columns) -> dict[str, Any]:
    """Everything that the results depend on."""
    hub = is_hub_id(request.train)
    named = HubSet(request.train, request.hub_config, request.hub_split).named if hub else train.name
    return {
        "train": {"name": named, "sha256": file_digest(train), "columns": columns._asdict()},
        "against": {name: {"manifest": read_manifest(name).digest} for name in request.benchmarks},
        "split": request.split,
        "retrieval": RETRIEVAL,
        "decider": RULES,
        "compared_characters": LONGEST,
        "by_words": BY_WORDS,
        "chunk": CHUNK,
    }


def _report(
    inputs: Mapping[str, Any], questions: Sequence[Question], tally: Tally, duplicate_ids: int
) -> dict[str, Any]:
    asked = Counter(question.benchmark for question in questions)
    counts, skipped = tally.counts, {}
    for kind in sorted(counts):
        if kind.startswith("skipped: "):
            skipped[kind.removeprefix("skipped: ")] = counts[kind]
    return {
        "train": inputs["train"],
        "decider": inputs["decider"],
        "split": inputs["split"],
        "rows": {
            "read": counts["read"],
            "skipped": skipped,
            "without_answers": counts["without answers"],
            "cut": counts["cut"],
            "duplicate_ids": duplicate_ids,
        },
        "contained": tally.group("overall"),
        "by_benchmark": {
            name: of | {"asked": asked[name]} | tally.group("benchmark", name) for name, of in inputs["against"].items()
        },
        "by_rule": tally.groups("rule"),
        "by_verdict": tally.groups("verdict"),
    }


def results(train: Path) -> tuple[str, str, str]:
    """Names of the files that a run writes, in the order in which they appear: filtered rows, matches, report."""
    return f"filtered{train.suffix.lower()}", MATCHES, REPORT


def _train_file(request: Request, parts: Path) -> Path:
    if is_hub_id(request.train):
        return fetched(HubSet(request.train, request.hub_config, request.hub_split), parts)
    train = Path(request.train)
    require_readable(train)
    replaced = (folder / name for folder in (request.folder, parts) for name in results(train))
    if parts.resolve() in train.resolve().parents or any(path.exists() and path.samefile(train) for path in replaced):
        raise RequestError(f"{train} lies where the results go and would be lost; choose another --out")
    return train


def _require_same_request(report: Path, inputs: Mapping[str, Any]) -> None:
    """Let a report be replaced by one of the same rows, columns and benchmarks only; rules may have changed.

    Raises:
        RequestError: It is of another request, or is none of ours.
    """
    if not report.exists():
        return
    try:
        held = json.loads(report.read_text(encoding="utf-8"))
        same = all(held[name] == inputs[name] for name in ("train", "split"))
        same = same and set(held["by_benchmark"]) == set(inputs["against"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        same = False
    if not same:
        raise RequestError(
            f"{report.parent} holds the results of another request or of other rows; choose another --out, or remove "
            f"{report}"
        )


def _workers(todo: int) -> int:
    """Processes for so many chunks; starting them takes longer than comparing one chunk."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, MOST_WORKERS, todo)


def find(request: Request, watch: Watch = lambda done, total: None) -> Outcome:
    """Compare a training set with our questions and write report, matches and filtered rows.

    Raises:
        RequestError: The training set cannot be read, a name is wrong, or the folder cannot be written to.
        SourceError: A benchmark's source cannot be had.
        WorkError: A result cannot be written, or a worker was ended; what was compared is kept for the next run.
    """
    if request.split not in SPLITS:
        raise RequestError(f"--split is one of {', '.join(SPLITS)}, not {request.split!r}")
    parts = Parts(request.folder / ".parts")
    names, train = request.benchmarks, _train_file(request, parts.folder)
    columns = choose_columns(train, request.question, request.answer, request.id)
    inputs = _inputs(train, request, columns)
    _require_same_request(request.folder / REPORT, inputs)
    seen = survey(train, columns)
    parts.begin(json.dumps(inputs, indent=2) + "\n")
    questions = [q for name in names for split in SPLITS[request.split] for q in load_questions(name, split)]
    _compare(train, columns, seen.rows, questions, parts, watch)
    if file_digest(train) != inputs["train"]["sha256"]:
        raise WorkError(f"{train} changed while it was read; run the same command again")
    return _write(
        request.folder, train, parts, Tally(seen.rows), lambda t: _report(inputs, questions, t, seen.duplicate_ids)
    )


def _compare(
    train: Path, columns: Columns, rows: int, questions: Sequence[Question], parts: Parts, watch: Watch
) -> None:
    """Compare the chunks that are not compared yet, and save them."""
    missing = {at for at in range(-(-rows // CHUNK)) if not parts.path(at).is_file()}
    todo = ((at, chunk) for at, chunk in enumerate(chunks(read_rows(train, columns))) if at in missing)
    left = len(missing)
    watch(max(0, rows - left * CHUNK), rows)
    for at, part in compared(todo, questions, _workers(left)):
        parts.save(at, part)
        left -= 1
        watch(max(0, rows - left * CHUNK), rows)


def _write(folder: Path, train: Path, parts: Parts, tally: Tally, report: Callable[[Tally], dict[str, Any]]) -> Outcome:
    """Write the results beside the parts, then give them their names, the report last."""
    names = filtered, matches, last = results(train)
    with written_aside(parts.folder / matches) as lines:
        for part in parts.all():
            tally.add(part)
            lines.writelines(json.dumps(match._asdict()) + "\n" for match in part.matches)
    format_of(train).keep(train, parts.folder / filtered, tally.marked)
    whole = report(tally) | {"files": {"matches": matches, "filtered": filtered}}
    write_text(parts.folder / last, json.dumps(whole, indent=2) + "\n")
    for name in names:
        _move(parts.folder / name, folder / name)
    shutil.rmtree(parts.folder, ignore_errors=True)
    return Outcome(whole, folder, folder / filtered)


def _move(whole: Path, path: Path) -> None:
    try:
        whole.replace(path)
    except OSError as error:
        raise WorkError(f"cannot write {path}: {one_line(error)}; choose another --out") from error
