"""How fast `closedbook dedup run` is on a large training set, in how much memory, and whether it finds what is planted.

    $ CLOSEDBOOK_DATA=DIR python tests/bench/own_data.py [--rows 1000000] [--against popqa] [--keep NEW_DIR]

The training set is made of the benchmarks' questions that are held out nowhere, as they are and then perturbed again
and again, and each hundredth row is a test question as it is. The command runs as anybody would run it. Linux only.

Prints JSON:
- `planted`, `planted_found`: rows that are test questions, and those of them that are matched with that question
  (target: all); `matched`: all rows that match, the planted ones among them;
- `seconds` and `rows_per_second` of the whole command; `start_up_seconds` of the same command on one row;
- `core_hours_a_billion_rows` at that rate, if it holds on any number of cores;
- `peak_memory_gib`: of the command and all its processes together, shared memory counted once (PSS), every 0.2 s;
- `cores`: how many it may use.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from real_questions import endless, questions_of

from closedbook.harness.dedup.own_data import Request
from closedbook.harness.manifests import load_questions, read_manifest
from closedbook.harness.questions import Question
from closedbook.harness.sources import benchmarks

PLANTED = 100  # each row of a number that this divides is a test question
POLL = 0.2  # seconds between two looks at the memory


class Run(NamedTuple):
    """What one run of the command took."""

    seconds: float
    peak: int  # bytes


def trained_on() -> list[Question]:
    """All questions of all benchmarks that are neither in test nor in validation, nor dropped from there."""
    every = {name: questions_of(name) for name in benchmarks()}
    held_out = {row.id for name in every for row in read_manifest(name).rows if row.split != "train"}
    return [question for known in every.values() for question in known.values() if question.id not in held_out]


def planted(number: int, tests: Sequence[Question]) -> Question | None:
    """The test question that stands in a row, if one does; all are used before one comes again."""
    place, rest = divmod(number, PLANTED)
    return tests[(place - 1) % len(tests)] if rest == 0 else None


def training_rows(tests: Sequence[Question], chance: Random) -> Iterator[Question]:
    """Rows without end."""
    real = trained_on()
    chance.shuffle(real)
    others = endless(real, chance)
    number = 0
    while number := number + 1:
        yield planted(number, tests) or next(others)


def write(path: Path, rows: Iterable[Question]) -> Path:
    """Write rows as JSON Lines, one by one."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"question": row.question, "answers": row.answers}) + "\n" for row in rows)
    return path


def family(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    with suppress(OSError):  # it has ended
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            yield from chain.from_iterable(family(int(child)) for child in children.read_text().split())


def memory(pid: int) -> int:
    """Bytes that a process and its descendants hold."""
    kibibytes = 0
    for member in family(pid):
        with suppress(OSError):
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text()
            kibibytes += sum(map(int, re.findall(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)))
    return kibibytes * 1024


def run(train: Path, against: Sequence[str], out: Path) -> Run:
    """Run the command on a training set and watch it.

    Raises:
        SystemExit: It failed; it has said why.
    """
    named = chain.from_iterable(("--against", name) for name in against)
    command = [sys.executable, "-m", "closedbook.harness.cli", "dedup", "run", "--train", train, "--out", out, *named]
    peak, start = 0, time.perf_counter()
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as process:
        while process.returncode is None:
            peak = max(peak, memory(process.pid))
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
    if process.returncode:
        raise SystemExit(process.returncode)
    return Run(time.perf_counter() - start, peak)


def planted_found(matches: Path, tests: Sequence[Question]) -> int:
    """How many planted rows are matched with the very question that they are."""
    found = set()
    with matches.open(encoding="utf-8") as lines:
        for match in map(json.loads, lines):
            question = planted(match["row"], tests)
            if question and question.id == match["question"]:
                found.add(match["row"])
    return len(found)


def measured(folder: Path, count: int, against: Sequence[str], seed: int) -> dict[str, object]:
    """Make the training set in a folder, run the command, and see what it found."""
    chance = Random(seed)
    tests = [question for name in Request("", tuple(against)).benchmarks for question in load_questions(name, "test")]
    chance.shuffle(tests)
    train = write(folder / "train.jsonl", islice(training_rows(tests, chance), count))
    start_up = run(write(folder / "one.jsonl", tests[:1]), against, folder / "one")
    whole = run(train, against, folder / "found")
    cores = len(os.sched_getaffinity(0))
    report = json.loads((folder / "found" / "report.json").read_text(encoding="utf-8"))
    return {
        "rows": report["rows"]["read"],
        "against": list(report["by_benchmark"]),
        "planted": count // PLANTED,
        "planted_found": planted_found(folder / "found" / "matches.jsonl", tests),
        "matched": report["contained"]["rows"],
        "seconds": round(whole.seconds, 1),
        "start_up_seconds": round(start_up.seconds, 1),
        "rows_per_second": round(count / whole.seconds),
        "core_hours_a_billion_rows": round(1e9 * whole.seconds / count / 3600 * cores),
        "peak_memory_gib": round(whole.peak / 2**30, 2),
        "cores": cores,
    }


def main() -> None:
    """Run all and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--against", action="append", help="a benchmark, or all; may be repeated; popqa unless named")
    parser.add_argument("--seed", type=int, default=2605)
    parser.add_argument("--keep", type=Path, metavar="NEW_DIR", help="keep the training set and what was found there")
    options = parser.parse_args()
    if options.keep and options.keep.exists():  # the command would go on with what it finds there
        parser.error(f"{options.keep} is there already; name a new folder")
    with tempfile.TemporaryDirectory() as folder:
        if options.keep:
            options.keep.mkdir(parents=True)
        figures = measured(options.keep or Path(folder), options.rows, options.against or ["popqa"], options.seed)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
