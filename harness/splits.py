"""Splits: a random partition by hash, then deduplication, written as a manifest that rebuilds byte for byte.

The partition sorts ids by a seeded hash and cuts the list, so the order of rows in the source changes nothing, and a
question keeps its place in the order when others come or go. Validation is deduplicated against train and test, since
it chooses among checkpoints; contained test questions leave test (`drop="test"`), or their training questions leave
train (`drop="train"`). Overlaps between benchmarks are recorded beside the manifests and dropped from neither: a model
trained on one benchmark may be tested on another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from closedbook.harness import dedup
from closedbook.harness.dedup import RETRIEVAL, RULES, Decider, Decision, Embed, rules
from closedbook.harness.dedup.embeddings import Embedder
from closedbook.harness.errors import ManifestError, RequestError
from closedbook.harness.files import read_jsonl, typed, write_text
from closedbook.harness.manifests import (
    AGAINST,
    SPLITS,
    Manifest,
    Row,
    Split,
    check_source,
    load_questions,
    manifests_dir,
    pin,
    read_manifest,
)
from closedbook.harness.questions import Question
from closedbook.harness.sources import Benchmark, Source, benchmark, packaged, read_source

SEED = 2605
Drop = Literal["test", "train"]
OVERLAPS = "overlaps.jsonl"


def partition_key(seed: int, question_id: str) -> str:
    """The place of a question in the random order of a seed."""
    return hashlib.sha256(f"{seed}:{question_id}".encode()).hexdigest()


def partition(questions: Iterable[Question], sizes: Sequence[int], seed: int) -> list[list[Question]]:
    """Disjoint random parts of the wanted sizes; later parts are shorter where the questions run out."""
    ordered = sorted(questions, key=lambda question: partition_key(seed, question.id))
    parts, start = [], 0
    for size in sizes:
        parts.append(ordered[start : start + size])
        start += size
    return parts


@dataclass(frozen=True, slots=True)
class Splits:
    """Questions of each split, before or after deduplication.

    Attributes:
        dropped: What left a split: the split, and the decision that found its question contained elsewhere.
    """

    train: list[Question]
    validation: list[Question]
    test: list[Question]
    dropped: tuple[tuple[Split, Decision], ...] = ()


def draw(chosen: Benchmark, train: Source, test: Source, seed: int) -> Splits:
    """The splits before deduplication. Train comes last, so it is the one that is short where questions run out."""
    sizes = chosen.sizes
    if chosen.partitioned:
        parts = partition(test.questions, (sizes["test"], sizes["validation"], sizes["train"]), seed)
        return Splits(test=parts[0], validation=parts[1], train=parts[2])
    # a question that the official train split shares with the official test split, word for word, is test's
    held_out = {question.id for question in test.questions}
    free = [question for question in train.questions if question.id not in held_out]
    validation, kept = partition(free, (sizes["validation"], sizes["train"]), seed)
    return Splits(test=list(test.questions), validation=validation, train=kept)


def _no_record(_: Decision) -> None:
    """Keep no ledger."""


def deduplicate(
    splits: Splits,
    drop: Drop = "test",
    decider: Decider = rules,
    record: Callable[[Decision], None] = _no_record,
    embed: Embed | None = None,
) -> Splits:
    """Drop contained questions from test (or train), then from validation; idempotent.

    Args:
        splits: The drawn splits.
        drop: Which question of a contained pair goes.
        decider: Decides each candidate pair.
        record: Called once with the decision on every pair, for a ledger.
        embed: Embeddings, for further candidates.
    """

    def decide(queries: list[Question], pool: list[Question]) -> list[Decision]:
        decisions = list(dedup.compare(queries, pool, decider, embed))
        for decision in decisions:
            if (pair := (decision.question, decision.candidate)) not in recorded:  # drop="train" looks more than once
                recorded.add(pair)
                record(decision)
        return decisions

    recorded: set[tuple[str, str]] = set()
    train, test = splits.train, splits.test
    dropped: list[tuple[Split, Decision]] = []
    if drop == "test":
        gone = dedup.strongest(decide(test, train))
        test = [question for question in test if question.id not in gone]
        dropped += [("test", decision) for decision in gone.values()]
    else:
        # candidates depend on the pool, so look again until a smaller pool shows nothing new
        while gone := dedup.strongest(d.reversed() for d in decide(test, train)):
            train = [question for question in train if question.id not in gone]
            dropped += [("train", decision) for decision in gone.values()]
    gone = dedup.strongest(decide(splits.validation, train + test))
    validation = [question for question in splits.validation if question.id not in gone]
    dropped += [("validation", decision) for decision in gone.values()]
    return Splits(train, validation, test, splits.dropped + tuple(dropped))


def variant(chosen: Benchmark, sources: Iterable[Source]) -> str:
    """Whether the sources are the full data set of the hub, a part of it, or a file with no stated size."""
    if not chosen.rows:
        return "local"
    return "hub-full" if all(s.rows == chosen.rows[s.split] for s in sources) else "mirror-subset"


def read_sources(chosen: Benchmark) -> tuple[Source, Source]:
    """The sources of train and test; one and the same where a single split is partitioned."""
    test = read_source(chosen.name, chosen.test)
    return (test if chosen.partitioned else read_source(chosen.name, chosen.train)), test


def build(
    name: str,
    drop: Drop = "test",
    seed: int = SEED,
    decider: Decider = rules,
    record: Callable[[Decision], None] = _no_record,
    embed: Embedder | None = None,
) -> Manifest:
    """The manifest of a benchmark, from its source; `deduplicate` explains the arguments.

    Raises:
        RequestError: No such benchmark.
        SourceError: The source cannot be had or read.
    """
    chosen = benchmark(name)
    train, test = read_sources(chosen)
    deciders = set()

    def note(decision: Decision) -> None:
        deciders.add(decision.decider)
        record(decision)

    splits = deduplicate(draw(chosen, train, test, seed), drop, decider, note, embed)
    rows = [Row(question.id, split) for split in SPLITS for question in getattr(splits, split)]
    rows += [_dropped_row(side, decision) for side, decision in splits.dropped]
    sources = {source.split: pin(source, pinned=source is test) for source in (train, test)}
    wanted = dict(chosen.sizes) if chosen.partitioned else {**chosen.sizes, "test": len(test.questions)}
    return Manifest(
        benchmark=name,
        variant=variant(chosen, (train, test)),
        seed=seed,
        drop=drop,
        decider=" + ".join(sorted(deciders)),
        retrieval=RETRIEVAL if embed is None else f"{RETRIEVAL} + dense:{embed.name}",
        wanted=wanted,
        sources=sources,
        rows=tuple(sorted(rows, key=lambda row: row.id)),
    )


def _dropped_row(side: Split, decision: Decision) -> Row:
    return Row(
        decision.question,
        "dropped",
        dropped_from=side,
        contained_in=decision.candidate,
        verdict=str(decision.verdict),
        decider=decision.decider,
        rule=decision.rule,
        score=decision.score,
    )


@dataclass(frozen=True, slots=True)
class Overlap:
    """A test question of one benchmark whose fact a training question of another one states."""

    test_benchmark: str
    test_id: str
    train_benchmark: str
    train_id: str
    rule: str
    score: float


def find_overlaps(
    folder: Path | None = None,
    decider: Decider = rules,
    names: Iterable[str] | None = None,
    embed: Embed | None = None,
) -> list[Overlap]:
    """What contains a test question of the named benchmarks of the package (of all) in the train split of another."""
    train = {name: load_questions(name, "train", folder) for name in packaged()}
    found = []
    for name in packaged() if names is None else names:
        test = load_questions(name, "test", folder)
        for other in packaged():
            if other != name:
                for d in dedup.strongest(dedup.compare(test, train[other], decider, embed)).values():
                    found.append(Overlap(name, d.question, other, d.candidate, d.rule, d.score))
    return sorted(found, key=lambda o: (o.test_benchmark, o.test_id, o.train_benchmark))


def _overlap(row: Any) -> Overlap:
    overlap = Overlap(**row)
    typed(overlap)
    return overlap


def overlaps_text(overlaps: Iterable[Overlap]) -> str:
    """Overlaps as JSON Lines."""
    return "".join(json.dumps(asdict(overlap)) + "\n" for overlap in overlaps)


def write_overlaps(overlaps: Iterable[Overlap], folder: Path | None = None) -> Path:
    """Write the overlaps between benchmarks beside the manifests."""
    path = (folder or manifests_dir()) / OVERLAPS
    write_text(path, overlaps_text(overlaps))
    return path


def _check_drawn(manifest: Manifest, drawn: Splits, train: Source) -> None:
    """Refuse a manifest whose splits, with what was dropped from them, are not the ones that its seed draws.

    Train and validation can be compared only where the source is the one the manifest was built from.
    """
    same_source = pin(train, pinned=False).ids == manifest.sources[train.split].ids
    for split in SPLITS if same_source else ("test",):
        listed = {row.id for row in manifest.rows if split in (row.split, row.dropped_from)}
        if other := listed ^ {question.id for question in getattr(drawn, split)}:
            raise ManifestError(
                f"{manifest.benchmark}: {split} is not what seed {manifest.seed} draws: {len(other)} questions differ, "
                f"among them {min(other)}; rebuild with `closedbook splits build {manifest.benchmark}`"
            )


def read_overlaps(folder: Path | None = None) -> list[Overlap]:
    """The overlaps as written: of each test question and each other benchmark the training question that is closest.

    Raises:
        ManifestError: The file is missing or malformed.
    """
    path = (folder or manifests_dir()) / OVERLAPS
    try:
        return list(read_jsonl(path, _overlap, "overlaps as `closedbook splits build` writes them"))
    except RequestError as error:
        raise ManifestError(str(error)) from error


def check_overlaps(folder: Path | None = None) -> list[Overlap]:
    """Prove that the overlaps belong to the manifests: each pairs a test question with another's train question.

    Raises:
        ManifestError: The file is missing or malformed, or was made for other manifests.
    """
    manifests = {name: read_manifest(name, folder) for name in packaged()}
    ids = {(name, split): set(m.ids(split)) for name, m in manifests.items() for split in SPLITS}
    overlaps = read_overlaps(folder)
    none: set[str] = set()
    stale = [
        o.test_id
        for o in overlaps
        if o.test_id not in ids.get((o.test_benchmark, "test"), none)
        or o.train_id not in ids.get((o.train_benchmark, "train"), none)
    ]
    if stale:
        raise ManifestError(
            f"{(folder or manifests_dir()) / OVERLAPS} was made for other manifests ({min(stale)} is not in test); run "
            "`closedbook splits build`"
        )
    return overlaps


def _check_reasons(manifest: Manifest) -> None:
    """Refuse a manifest that drops a question for one that was never compared with it."""
    ids = {split: set(manifest.ids(split)) for split in SPLITS}
    for row in manifest.rows:
        against = AGAINST[row.dropped_from] if row.dropped_from else ()
        if against and not any(row.contained_in in ids[split] for split in against):
            raise ManifestError(
                f"{manifest.benchmark}: {row.id} left {row.dropped_from} for {row.contained_in}, which is not in "
                f"{' or '.join(against)}; rebuild it"
            )


def decided_by_rules(manifest: Manifest) -> bool:
    """Whether the rules alone decided, in their present version, so that they can be asked again."""
    return manifest.decider in (RULES, "")  # nobody, where no pair was worth deciding


def check(name: str, folder: Path | None = None) -> Manifest:
    """Check a manifest: ids in one split each, all found in the source, each dropped for a question that is kept.

    Where the rules decided, they decide again, which proves that nothing is kept that is contained in train; what
    another decider kept is not theirs to overrule.

    Raises:
        ManifestError: A promise is broken; the message says which, where, and for which id.
        SourceError: The source is not the one that the manifest pins.
    """
    manifest, chosen = read_manifest(name, folder), benchmark(name)
    seen: set[str] = set()
    for row in manifest.rows:
        if row.id in seen:
            raise ManifestError(f"{name}: question {row.id} stands twice in the manifest; rebuild it")
        seen.add(row.id)
    train_source, test_source = read_sources(chosen)
    sources = {source.split: source for source in (train_source, test_source)}
    for source in sources.values():
        check_source(manifest, source)
    _check_drawn(manifest, draw(chosen, train_source, test_source, manifest.seed), train_source)
    _check_reasons(manifest)
    if decided_by_rules(manifest):
        _check_decisions(manifest, {q.id: q for source in sources.values() for q in source.questions})
    return manifest


def _check_decisions(manifest: Manifest, asked: Mapping[str, Question]) -> None:
    """Refuse a manifest that keeps what the rules call contained, or drops one for another reason than theirs."""
    name = manifest.benchmark
    for row in manifest.rows:
        if row.contained_in is not None:
            ours, theirs = asked[row.id], asked[row.contained_in]
            pair = (theirs, ours) if row.dropped_from == "train" else (ours, theirs)
            (d,) = rules([pair])
            if (row.verdict, row.rule, row.score) != (d.verdict, d.rule, d.score):
                raise ManifestError(
                    f"{name}: {row.id} left {row.dropped_from} for {row.contained_in}, but the rules say {d.verdict} "
                    f"({d.rule}, {d.score}); rebuild with `closedbook splits build {name}`"
                )
    train, validation, test = ([asked[i] for i in manifest.ids(split)] for split in SPLITS)
    for side, queries, pool in (("test", test, train), ("validation", validation, train + test)):
        if contained := dedup.strongest(dedup.compare(queries, pool)):
            first = contained[min(contained)]
            raise ManifestError(
                f"{name}: {side} question {first.question} states the fact of {first.candidate} "
                f"({first.rule}, {first.score}); rebuild with `closedbook splits build {name}`"
            )
