"""What deduplication says about the benchmarks: how many test questions the training questions state, and why.

A page of Markdown made from the manifests and, where there is one, a model's answers to what was dropped. It holds ids
and no question text. Every share stands with its 95 % interval and its n.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from closedbook.harness.dedup.decisions import Verdict
from closedbook.harness.dedup.effect import Effect, read_effects
from closedbook.harness.manifests import Manifest, Row, read_manifests
from closedbook.harness.sources import packaged
from closedbook.harness.splits import Overlap, check_overlaps
from closedbook.harness.statistics import Estimate, wilson

KINDS = {  # rule of the decider: what it found
    "equal": "exact",
    "fact": "structured",
    "paraphrase": "paraphrase",
    "alias": "alias",
    "reversal": "reversal",
    "llm": "model",
}
OTHER = "undecided"  # a model failed
EXAMPLES = 10
DROPPED = """\
Test questions whose fact a training question of the same benchmark states. They were dropped. In per cent of the test
questions drawn, with 95 % intervals (Wilson)."""
PUBLISHED = """\
For comparison: Lewis, Stenetorp and Riedel (arXiv 2008.02637) found by hand that 32.5 % of annotated NQ-open test
questions are paraphrases of a training question, and that 63.6 % of test answers occur in train, over the full train
set of about 80,000. Ours is the share that the training questions in use state, a sample of it, so it is lower; the
full set would drop more."""
ACROSS = """\
Test questions of one benchmark (rows) whose fact a training question of another one (columns) states. They stay in
test; leave them out where a model that was trained on one benchmark is tested on another."""
HOMONYMS = """\
Rows of a source that ask the same words are one question here with the answers of all: a model that sees only the words
cannot tell them apart. In PopQA they are homonyms, people and works of one name, and such a question is dropped only if
a training question states one of its subjects' facts."""
EFFECT = """\
The full test set is what was kept and what was dropped; the answers to the kept questions count in both scores. So the
difference is the share dropped times the difference between both parts (Newcombe's interval, scaled). In per cent;
`closedbook dedup effect MODEL` measures it."""
EXPLAIN = """\
`closedbook dedup explain ID` shows a question beside all that it was compared with, from your own copy of the source.
"""


def contamination(folder: Path | None = None, effect: Path | None = None) -> str:
    """The page; where a manifest is missing, without its benchmark and without what is across benchmarks.

    Args:
        folder: Folder of the manifests, where they are not the committed ones.
        effect: What `closedbook dedup effect` has written of a model.

    Raises:
        RequestError: The file of effects cannot be read.
        ManifestError: A manifest, or the file of overlaps, is malformed, or there is none.
    """
    manifests = read_manifests(folder)
    lines = [
        "# What the training questions say of the test questions",
        "",
        "```",
        "closedbook dedup contamination --effect effect.json",
        "```",
        "",
    ]
    lines += [DROPPED, ""]
    lines += [*_dropped(manifests), "", PUBLISHED, "", _train_sizes(manifests)]
    lines += ["", "## By kind", "", *_by_kind(manifests)]
    if manifests.keys() >= packaged().keys():  # overlaps with others are not looked for
        theirs = {name: manifests[name] for name in packaged()}
        lines += ["", "## Across benchmarks", "", ACROSS, "", *_across(theirs, check_overlaps(folder))]
    lines += ["", "## Homonyms", "", HOMONYMS, "", *_homonyms(manifests)]
    if effect:
        lines += ["", "## What it does to a score", "", *_effect(*read_effects(effect))]
    lines += ["", "## Examples", "", EXPLAIN, *_examples(manifests)]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    def line(cells: Sequence[object]) -> str:
        return f"| {' | '.join(map(str, cells))} |"

    return [line(head), line(["---"] * len(head)), *map(line, rows)]


def _left(manifest: Manifest) -> list[Row]:
    """What left test."""
    return [row for row in manifest.rows if row.dropped_from == "test"]


def _drawn(manifest: Manifest) -> int:
    return len(manifest.ids("test")) + len(_left(manifest))


def _dropped(manifests: dict[str, Manifest]) -> list[str]:
    rows = []
    for name, manifest in manifests.items():
        left, drawn = _left(manifest), _drawn(manifest)
        unsure = sum(row.verdict == Verdict.UNSURE for row in left)
        rows.append([name, f"{drawn:,}", f"{len(left):,}", wilson(len(left), drawn), f"{unsure:,}"])
    return _table(["benchmark", "test questions", "dropped", "per cent", "of these unsure"], rows)


def _train_sizes(manifests: dict[str, Manifest]) -> str:
    told = "\n".join(f"- {name}: {len(m.ids('train')):,} ({m.variant})" for name, m in manifests.items())
    return f"Training questions in use, and what the sources held:\n\n{told}"


def _by_kind(manifests: dict[str, Manifest]) -> list[str]:
    kinds = [*dict.fromkeys(KINDS.values()), OTHER]
    counts = {name: Counter(KINDS.get(row.rule or "", OTHER) for row in _left(m)) for name, m in manifests.items()}
    shown = [kind for kind in kinds if any(count[kind] for count in counts.values())]
    return _table(["benchmark", *shown], [[name, *(count[kind] for kind in shown)] for name, count in counts.items()])


def _across(manifests: dict[str, Manifest], overlaps: Sequence[Overlap]) -> list[str]:
    """Test questions (rows) whose fact the train split of another benchmark (columns) states."""
    counts = Counter((overlap.test_benchmark, overlap.train_benchmark) for overlap in overlaps)
    rows = [
        [test, *("" if test == train else counts[test, train] for train in manifests), f"{len(m.ids('test')):,}"]
        for test, m in manifests.items()
    ]
    return _table(["", *manifests, "test questions"], rows)


def _homonyms(manifests: dict[str, Manifest]) -> list[str]:
    rows = []
    for name, manifest in manifests.items():
        pins = manifest.sources.values()
        counts = (sum(pin.rows - pin.unusable for pin in pins), sum(pin.merged for pin in pins))
        rows.append([name, *(f"{count:,}" for count in counts)])
    return _table(["benchmark", "rows with an answer", "of these in the words of an earlier row"], rows)


def _effect(model: str, judge: str, effects: Sequence[Effect]) -> list[str]:
    def cell(estimate: Estimate) -> str:
        return f"{estimate} (n = {estimate.n:,})"

    rows = [
        [of.benchmark, f"{100 * of.share:.1f}", cell(of.kept), cell(of.dropped), of.full_minus_deduplicated]
        for of in effects
    ]
    head = ["benchmark", "dropped", "accuracy on the kept", "accuracy on the dropped", "full minus deduplicated"]
    return [f"{model}; judge: {judge}.", "", EFFECT, "", *_table(head, rows)]


def _examples(manifests: dict[str, Manifest]) -> list[str]:
    """The first by id of each benchmark and kind, until there are enough; `explain` shows the texts."""
    first: dict[tuple[str, str], Row] = {}
    for name, manifest in manifests.items():
        for row in _left(manifest):
            first.setdefault((name, KINDS.get(row.rule or "", OTHER)), row)
    rows = [
        [name, kind, row.id, row.contained_in, row.verdict, row.score]
        for (name, kind), row in list(first.items())[:EXAMPLES]
    ]
    return _table(["benchmark", "kind", "test question", "contained in", "verdict", "score"], rows)
