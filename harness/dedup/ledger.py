"""The ledger: every compared pair with its decision, and what can be asked of it.

A ledger is a JSON Lines file that `closedbook splits build --ledger FILE` writes, one line a compared pair: ids,
verdict, rule, score, decider, and what a model said. `explain` answers why a question was dropped, or was not; rules
need no ledger for that, since they can be asked again at any time. `diff` tells what would change with another decider.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from closedbook.harness.dedup.candidates import Embed, candidate_pairs
from closedbook.harness.dedup.decisions import Decider, Decision, Verdict, strongest
from closedbook.harness.dedup.rules import rules
from closedbook.harness.errors import RequestError
from closedbook.harness.files import read_jsonl, typed
from closedbook.harness.manifests import AGAINST, Manifest, Row, read_manifests
from closedbook.harness.questions import Question, by_id
from closedbook.harness.sources import benchmark, read_source

WANTED = "decisions as `closedbook splits build --ledger FILE` writes them"


def compare(
    queries: Sequence[Question], pool: Iterable[Question], decider: Decider = rules, embed: Embed | None = None
) -> Iterator[Decision]:
    """Decisions on all candidate pairs, question by question; `embed` adds candidates of like meaning."""
    return decider(candidate_pairs(queries, pool, embed))


def _decision(row: Any) -> Decision:
    decision = Decision(**row | {"verdict": Verdict(row["verdict"])})
    typed(decision)
    return decision


def read_ledger(path: Path) -> Iterator[Decision]:
    """The decisions of a ledger file.

    Raises:
        RequestError: The file cannot be read, or a line is no decision.
    """
    return read_jsonl(path, _decision, WANTED)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of a question, and every comparison that could have dropped it.

    Attributes:
        question: The question, from the user's own copy of the source.
        row: Its line in the manifest.
        compared: The decisions, the one that dropped it first, and the question on the other side of each.
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
    manifest, row = _find(question_id, folder)
    chosen = benchmark(manifest.benchmark)
    asked = by_id([q for split in {chosen.train, chosen.test} for q in read_source(chosen.name, split).questions])
    against = _against(manifest, row, asked)
    turned = _side(row) == "train"
    if ledger:
        decisions = [d.reversed() if turned else d for d in read_ledger(ledger)]
    else:
        decisions = _decide_again(asked[row.id], against, row.contained_in, turned)
    decisions = [d for d in decisions if d.question == row.id and d.candidate in against]
    ordered = sorted(decisions, key=lambda d: (d.candidate != row.contained_in, not d.drops, -d.score, d.candidate))
    return Explanation(asked[row.id], row, tuple((d, against[d.candidate]) for d in ordered))


def _find(question_id: str, folder: Path | None) -> tuple[Manifest, Row]:
    for manifest in read_manifests(folder).values():
        for row in manifest.rows:
            if row.id == question_id:
                return manifest, row
    raise RequestError(
        f"no manifest has a question {question_id!r}; ids are 16 hexadecimal digits, as manifests list them"
    )


def _side(row: Row) -> str:
    return row.dropped_from or row.split


def _against(manifest: Manifest, row: Row, asked: Mapping[str, Question]) -> dict[str, Question]:
    """What could have dropped the question: the splits that its own is compared with, and what did drop it."""
    ids = {i for split in AGAINST[_side(row)] for i in manifest.ids(split)} | {row.contained_in or row.id}
    return {i: asked[i] for i in sorted(ids - {row.id}) if i in asked}


def _decide_again(
    question: Question, against: Mapping[str, Question], contained_in: str | None, turned: bool
) -> list[Decision]:
    """What the rules say of the question and its candidates, and of what dropped it even if it is none of these.

    Args:
        question: The question.
        against: What could have dropped it, by id.
        contained_in: What did.
        turned: Whether the others were compared with the question, as test is with train when train is dropped from.
    """
    pairs = list(candidate_pairs([question], against.values()))
    if contained_in and contained_in in against and contained_in not in {candidate.id for _, candidate in pairs}:
        pairs.append((question, against[contained_in]))
    return [d.reversed() for d in rules((other, one) for one, other in pairs)] if turned else list(rules(pairs))


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
