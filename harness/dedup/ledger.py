"""The ledger: every compared pair with its decision, and what can be asked of it.

A ledger is a JSON Lines file that `closedbook splits build --ledger FILE` writes, one line a compared pair: ids,
verdict, rule, score, decider, and what a model said. `explain` answers why a question was dropped, or was not; rules
need no ledger for that, since they can be asked again at any time. `diff` tells what would change with another decider.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from closedbook.harness.dedup.candidates import Embed, candidate_pairs
from closedbook.harness.dedup.decisions import Decider, Decision, Verdict, strongest
from closedbook.harness.dedup.rules import rules
from closedbook.harness.errors import RequestError
from closedbook.harness.files import read_jsonl
from closedbook.harness.manifests import Row, read_manifest
from closedbook.harness.questions import Question, by_id
from closedbook.harness.sources import benchmarks, read_source

WANTED = "decisions as `closedbook splits build --ledger FILE` writes them"


def compare(
    queries: Sequence[Question], pool: Iterable[Question], decider: Decider = rules, embed: Embed | None = None
) -> Iterator[Decision]:
    """Decisions on all candidate pairs, question by question; `embed` adds candidates of like meaning."""
    return decider(candidate_pairs(queries, pool, embed))


def _decision(row: Any) -> Decision:
    return Decision(**row | {"verdict": Verdict(row["verdict"])})


def read_ledger(path: Path) -> Iterator[Decision]:
    """The decisions of a ledger file.

    Raises:
        RequestError: The file cannot be read, or a line is no decision.
    """
    return read_jsonl(path, _decision, WANTED)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of a question, and every comparison that it took part in.

    Attributes:
        question: The question, from the user's own copy of the source.
        row: Its line in the manifest.
        compared: The decisions, those that drop it first, and the question on the other side of each.
    """

    question: Question
    row: Row
    compared: tuple[tuple[Decision, Question], ...]


def explain(question_id: str, ledger: Path | None = None, folder: Path | None = None) -> Explanation:
    """Why a question of a manifest was dropped, or stayed.

    Args:
        question_id: Its id; the manifest that has it says the benchmark.
        ledger: Take the decisions from this file; without one the rules decide again.
        folder: Folder of the manifests.

    Raises:
        RequestError: No manifest has such a question, or the ledger cannot be read.
        SourceError: The source cannot be had.
    """
    name, row = _find(question_id, folder)
    chosen = benchmarks()[name]
    asked = by_id([q for split in {chosen.train, chosen.test} for q in read_source(name, split).questions])
    if ledger:
        decisions = [d for d in read_ledger(ledger) if d.question == question_id]
    else:
        decisions = list(compare([asked[question_id]], _against(name, row, asked, folder)))
    ordered = sorted(decisions, key=lambda d: (not d.drops, -d.score, d.candidate))
    return Explanation(asked[question_id], row, tuple((d, asked[d.candidate]) for d in ordered if d.candidate in asked))


def _find(question_id: str, folder: Path | None) -> tuple[str, Row]:
    for name in benchmarks():
        for row in read_manifest(name, folder).rows:
            if row.id == question_id:
                return name, row
    raise RequestError(
        f"no manifest has a question {question_id!r}; ids are 16 hexadecimal digits, as manifests list them"
    )


def _against(name: str, row: Row, asked: dict[str, Question], folder: Path | None) -> list[Question]:
    """What the question was compared with: train, and for validation test too."""
    manifest = read_manifest(name, folder)
    ids = manifest.ids("train") + (manifest.ids("test") if "validation" in (row.split, row.dropped_from) else [])
    return [asked[i] for i in ids if i in asked]


@dataclass(frozen=True, slots=True)
class Difference:
    """Two ledgers side by side.

    Attributes:
        only_first, only_second: What only the one drops: the decision that does.
        verdicts: How often a pair in both got which two verdicts, where they differ: "contained -> unsure".
        pairs: Pairs in both.
    """

    only_first: tuple[Decision, ...]
    only_second: tuple[Decision, ...]
    verdicts: dict[str, int]
    pairs: int


def diff(first: Path, second: Path) -> Difference:
    """What would change if the second ledger's decider had decided.

    Raises:
        RequestError: A file cannot be read, or is no ledger.
    """
    ours, theirs = list(read_ledger(first)), list(read_ledger(second))
    dropped, dropped_there = strongest(ours), strongest(theirs)
    verdicts = {(d.question, d.candidate): d.verdict for d in ours}
    both = [(verdicts[pair], d.verdict) for d in theirs if (pair := (d.question, d.candidate)) in verdicts]
    changed = Counter(f"{before} -> {after}" for before, after in both if before is not after)
    return Difference(
        tuple(dropped[i] for i in sorted(dropped.keys() - dropped_there.keys())),
        tuple(dropped_there[i] for i in sorted(dropped_there.keys() - dropped.keys())),
        dict(sorted(changed.items())),
        len(both),
    )
