"""The README.md of an exported data set: the hub's metadata, then where the questions come from and what was left out.

Everything in it is made from benchmarks.toml and the manifest, so it holds no question, and the same manifest gives the
same card. What surprises: a licence that upstream states for its code alone is no licence of the data, and the head
then says "unknown".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from closedbook.harness.dedup.rules import REASONS
from closedbook.harness.manifests import DROPPED, SPLITS, Manifest
from closedbook.harness.markdown import fenced
from closedbook.harness.prompts import template, template_digest
from closedbook.harness.sources import Benchmark

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
LARGER = "100K<n<1M"
USE = """\
Train and validation are there to train on and to choose checkpoints by. A model that has seen test or `dropped` is not
measured by them any more."""
ID = """\
16 hexadecimal digits of SHA-256 over the benchmark and the question without case, spacing and final question mark, so
that it is the same wherever the source is read"""
ANSWERS = "a list; any of them is right. In NFKC, white space cleaned, unique up to case"
PARTED = """\
The source's one split was parted at random: its questions, in the order of a hash with the seed {seed}, were cut into
test, validation and train."""
OFFICIAL = """\
Test is the source's `{test}` split. Train and validation were drawn at random from its `{train}` split, in the order of
a hash with the seed {seed}; a question that both splits of the source ask is test's."""
DEDUPLICATED = """\
Then they were deduplicated at the level of facts: {side}, and a validation question whose fact a train or test question
states left validation. A pair that was left unsure counts as one fact. Pairs were found by `{retrieval}` and decided by
`{decider}`."""
SIDES = {
    "test": "a test question whose fact a train question states, in whatever words, left test",
    "train": "a train question that states the fact of a test question, in whatever words, left train",
}
UNSTATED = """\
For the data itself no licence is stated, so the head of this card says `unknown`; whether you may pass it on is for you
to find out."""
ASKED = """\
closedbook asks one of these, with the question in the place of `{question}`. The same text is the user's turn of a chat
and the document that a base model continues."""


def data_card(chosen: Benchmark, manifest: Manifest, questions: Mapping[str, int]) -> str:
    """The card of a data set, as the text of its README.md.

    Args:
        chosen: The benchmark.
        manifest: Its splits.
        questions: How many questions of each split the data set holds.
    """
    sections = [
        f"# {_title(chosen)}\n\n{_opening(chosen)}",
        f"## Columns\n\n{_columns(chosen)}",
        f"## Source\n\n{_source(chosen, manifest)}",
        f"## Splits\n\n{_splits(chosen, manifest, questions)}",
        f"## What was dropped\n\n{_dropped(manifest)}",
        f"## Licence\n\n{_licence(chosen)}",
        f"## Prompt\n\n{_prompts()}",
        f"## Citation\n\n{_citation(chosen)}",
    ]
    return f"---\n{_head(chosen, questions)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _title(chosen: Benchmark) -> str:
    return f"{chosen.title}, deduplicated"


def _head(chosen: Benchmark, questions: Mapping[str, int]) -> str:
    """The metadata that the hub and `datasets` read, as the hub's own library writes it."""
    from huggingface_hub import DatasetCardData

    files = [{"split": split, "path": f"data/{split}-*"} for split in questions]
    head: str = DatasetCardData(
        language=["en"],
        license=chosen.licence_id,
        pretty_name=_title(chosen),
        size_categories=[size_category(sum(questions.values()))],
        tags=["closedbook"],
        task_categories=["question-answering"],
        configs=[{"config_name": "default", "data_files": files}],
    ).to_yaml()
    return head


def size_category(rows: int) -> str:
    """The hub's name for the size of a data set."""
    return next((name for below, name in SIZES if rows < below), LARGER)


def _paragraph(text: str, **values: object) -> str:
    """A text on one line, as Markdown wants it, with its places filled."""
    return " ".join(text.split()).format(**values)


def _opening(chosen: Benchmark) -> str:
    return (
        f"Questions of {chosen.title}, to be answered from memory, without looking anything up. Deduplicated, and "
        f"written by `closedbook export` from a copy of the source.\n\n{_paragraph(USE)}"
    )


def _columns(chosen: Benchmark) -> str:
    told = {
        "id": _paragraph(ID),
        "benchmark": f"`{chosen.name}`",
        "question": "as the source has it, white space cleaned",
        "answers": ANSWERS,
    }
    if chosen.metadata:
        names = [
            f"`{name}`" + (f" (the source's `{column}`)" if column != name else "")
            for name, column in chosen.metadata.items()
        ]
        told["metadata"] = f"a list; of each of the source's rows that ask this question {', '.join(names)}"
    return "\n".join(f"- `{name}`: {what}" for name, what in told.items())


def _source(chosen: Benchmark, manifest: Manifest) -> str:
    if chosen.repo:
        config = f", configuration `{chosen.config}`" if chosen.config else ""
        where = f"[{chosen.repo}](https://huggingface.co/datasets/{chosen.repo}){config}"
    else:
        where = "ships with closedbook" if chosen.packaged else "a file of its authors' own"
    rows = [
        [split, pin.rows, chosen.rows.get(split, pin.rows), pin.unusable, pin.merged, pin.questions]
        for split, pin in manifest.sources.items()
    ]
    empty = f", and those with an empty {' or '.join(f'`{c}`' for c in chosen.required)}" if chosen.required else ""
    return "\n".join(
        [
            f"- source: {where}",
            *([f"- home: <{chosen.homepage}>"] if chosen.homepage else []),
            f"- manifest, which says what is in which split: SHA-256 `{manifest.digest}`, variant {manifest.variant}",
            "",
            "The manifest was made from:",
            "",
            *_table(["split of the source", "rows", "of", "left out", "merged", "questions"], rows),
            "",
            "Rows that ask the same words are one question with the answers of all of them. Left out are rows without "
            f"a question or an answer{empty}.",
        ]
    )


def _splits(chosen: Benchmark, manifest: Manifest, questions: Mapping[str, int]) -> str:
    how = PARTED if chosen.partitioned else OFFICIAL
    parted = _paragraph(how, test=chosen.test, train=chosen.train, seed=manifest.seed)
    decider = manifest.decider or "nobody, for lack of pairs"
    told = _paragraph(DEDUPLICATED, side=SIDES[manifest.drop], retrieval=manifest.retrieval, decider=decider)
    counts = manifest.counts
    rows = []
    for split in SPLITS:
        kept, gone = counts.get(split, 0), counts.get(f"dropped from {split}", 0)
        rows.append([split, kept + gone, gone, kept, "yes" if split in questions else "no"])
    table = _table(["split", "drawn", "dropped", "kept", "in this data set"], rows)
    also = "\n\nThe split `dropped` holds what left test." if DROPPED in questions else ""
    return f"{parted}\n\n{told}\n\n" + "\n".join(table) + also


def _dropped(manifest: Manifest) -> str:
    found = Counter((row.dropped_from, row.rule, row.verdict) for row in manifest.rows if row.dropped_from)
    if not found:
        return "Nothing was dropped."
    rows = [[split, rule, verdict, count] for (split, rule, verdict), count in sorted(found.items(), key=str)]
    rules = dict.fromkeys(str(rule) for _, rule, _, _ in rows)
    meaning = [f"- {rule}: {REASONS[rule]}" for rule in rules if rule in REASONS]
    table = _table(["dropped from", "rule", "verdict", "questions"], rows)
    return "\n".join([*table, "", "What the rules say of two questions:", "", *meaning] if meaning else table)


def _licence(chosen: Benchmark) -> str:
    beside = " That file is the LICENCE.md beside this one." if chosen.bundled and chosen.packaged else ""
    unstated = f"\n\n{_paragraph(UNSTATED)}" if chosen.licence_id == "unknown" else ""
    return (
        f"As stated upstream: {chosen.licence}.{beside}{unstated}\n\n"
        "Questions and answers are those of the source, under its terms; ids and splits are closedbook's."
    )


def _prompts() -> str:
    titles = {"direct": "The direct one", "cot": "The one for a chain of thought"}
    shown = [f"{title} (digest `{template_digest(s)}`):\n\n{fenced(template(s))}" for s, title in titles.items()]
    return "\n\n".join((_paragraph(ASKED, question="{question}"), *shown))


def _citation(chosen: Benchmark) -> str:
    citation = chosen.citation.strip()
    return fenced(citation, "bibtex") if citation.startswith("@") else citation or "None is stated."


def _table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> list[str]:
    names = list(columns)
    lines = [names, ["---"] * len(names), *([_cell(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
