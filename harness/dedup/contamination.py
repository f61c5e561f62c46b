"""What deduplication says about the benchmarks: how many test questions the training questions state, and why.

A page of Markdown made from the manifests alone (and the sources, for counts of rows), with ids and no question text.
Every share stands with its 95 % interval and its n.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from closedbook.harness.dedup.decisions import Verdict
from closedbook.harness.manifests import Manifest, Row, read_manifest
from closedbook.harness.sources import benchmarks
from closedbook.harness.splits import Overlap, check_overlaps
from closedbook.harness.statistics import wilson

KINDS = {  # rule of the decider: what it found
    "equal": "exact",
    "fact": "structured",
    "form": "structured",
    "paraphrase": "paraphrase",
    "alias": "alias",
    "reversal": "reversal",
    "llm": "model",
}
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
EXPLAIN = """\
`closedbook dedup explain ID` shows a question beside all that it was compared with, from your own copy of the source.
"""


def contamination(folder: Path | None = None) -> str:
    """The page.

    Raises:
        ManifestError: A manifest, or the file of overlaps, is missing or malformed.
    """
    manifests = {name: read_manifest(name, folder) for name in benchmarks()}
    overlaps = check_overlaps(folder)
    lines = [
        "# What the training questions say of the test questions",
        "",
        "```",
        "closedbook dedup contamination",
        "```",
        "",
    ]
    lines += [DROPPED, ""]
    lines += [*_dropped(manifests), "", PUBLISHED, "", _train_sizes(manifests)]
    lines += ["", "## By kind", "", *_by_kind(manifests)]
    lines += ["", "## Across benchmarks", "", ACROSS, "", *_across(manifests, overlaps)]
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
    return f"Training questions in use, and what the sources held:\n{told}"


def _by_kind(manifests: dict[str, Manifest]) -> list[str]:
    kinds = list(dict.fromkeys(KINDS.values()))
    counts = {name: Counter(KINDS.get(row.rule or "", "other") for row in _left(m)) for name, m in manifests.items()}
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


def _examples(manifests: dict[str, Manifest]) -> list[str]:
    """The first by id of each benchmark and kind, until there are enough; `explain` shows the texts."""
    first: dict[tuple[str, str], Row] = {}
    for name, manifest in manifests.items():
        for row in _left(manifest):
            first.setdefault((name, KINDS.get(row.rule or "", "other")), row)
    rows = [[name, kind, row.id, row.contained_in, row.score] for (name, kind), row in list(first.items())[:EXAMPLES]]
    return _table(["benchmark", "kind", "test question", "contained in", "score"], rows)
