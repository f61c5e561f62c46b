"""How well and how fast candidates are found, on the real benchmarks.

    $ CLOSEDBOOK_DATA=DIR python tests/bench/dedup.py PAIRS.jsonl [--embeddings minilm] [--only recall]
    $ CLOSEDBOOK_DATA=DIR python tests/bench/dedup.py --only seconds [--largest 100000] [--plot FILE.svg]

Prints JSON:
- `recall`: on the labelled same_fact pairs whose questions are in the sources, searched among all questions of their
  benchmark: the share found with at most k candidates of each retriever, for each alone, for the union, for the union
  without each, and how many different candidates a question then has (target: 0.99 at 20 or fewer);
- `seconds`: to find and decide the candidates of 500 questions in pools of 1,000 questions and more, real ones, and
  where these run out the same perturbed: to index the pool, to query it, and in all; the same over n log n, relative to
  the smallest pool (target: no faster than n log n); and the exponent of n that fits best, beside that of n log n;
- `with_embeddings`: the same with the dense retriever, and the seconds to embed the pool and the 500 questions.

Each pool is measured in a process of its own that has seen none of its questions, with no embedding kept on disk.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from real_questions import endless, questions_of

from closedbook.harness.dedup import Embed, compare, rules
from closedbook.harness.dedup.candidates import pairs_found, retrievers
from closedbook.harness.dedup.embeddings import Embedder
from closedbook.harness.dedup.score import POSITIVE, read_pairs
from closedbook.harness.questions import Question, make_question
from closedbook.harness.sources import benchmarks

CUTS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50)
QUERIES = 500
POOLS = (1_000, 3_000, 10_000, 30_000, 100_000)
FIRST = [make_question("nq", f"who wrote the {size} book of Osric", ["Some Body"]) for size in ("long", "short")]
Found = Mapping[str, Sequence[str]]  # by retriever, ids in its order


def searched(pairs: Path, embed: Embed | None) -> list[tuple[str, Found]]:
    """For each labelled pair of the same fact that the sources have: the id wanted, and what each retriever finds."""
    wanted = [(p.test, p.train) for p in read_pairs(pairs) if p.label == POSITIVE and p.test.id != p.train.id]
    done: list[tuple[str, Found]] = []
    for name in benchmarks():
        known = questions_of(name)
        asked = [(a.id, b.id) for a, b in wanted if a.benchmark == name and a.id in known and b.id in known]
        pool = sorted(known.values(), key=lambda question: question.id)
        made = retrievers(pool, embed, max(CUTS) + 1)
        found = {who: list(find([known[a] for a, _ in asked])) for who, find in made.items()}
        for at, (query, target) in enumerate(asked):
            ids = {who: [i for n in near[at] if (i := pool[n].id) != query] for who, near in found.items()}
            done.append((target, ids))
    return done


def share(done: Sequence[tuple[str, Found]], who: Sequence[str], cut: int) -> float:
    """Share of the pairs that these retrievers find among their first candidates."""
    return round(sum(any(target in found[name][:cut] for name in who) for target, found in done) / len(done), 4)


def recall(pairs: Path, embed: Embed | None) -> dict[str, object]:
    """The curves."""
    done = searched(pairs, embed)
    every = list(done[0][1])
    rows = {}
    for cut in CUTS:
        union = [len({i for name in every for i in found[name][:cut]}) for _, found in done]
        rows[cut] = {
            "alone": {name: share(done, [name], cut) for name in every},
            "without": {name: share(done, [other for other in every if other != name], cut) for name in every},
            "union": share(done, every, cut),
            "candidates": round(sum(union) / len(union), 2),
        }
    return {"pairs": len(done), "at": rows}


class Curve(NamedTuple):
    """What was measured, by the size of the pool."""

    pools: dict[int, dict[str, float]]

    def seconds(self, step: str = "seconds") -> list[float]:
        """Seconds of a step for each pool."""
        return [found[step] for found in self.pools.values()]

    def figures(self) -> dict[str, object]:
        """The curve and how it grows."""
        unit = n_log_n(list(self.pools))
        over = np.array(self.seconds()) / unit
        relative = {size: round(float(value / over[0]), 2) for size, value in zip(self.pools, over, strict=True)}
        figures: dict[str, object] = {"pools": self.pools, "over_n_log_n": relative}
        if len(self.pools) > 1:  # else there is nothing to fit
            steps = [step for step in next(iter(self.pools.values())) if step != "pairs"]
            fitted = {step: exponent(list(self.pools), self.seconds(step)) for step in steps}
            figures["exponent"] = fitted | {"n_log_n": exponent(list(self.pools), unit)}
        return figures


def n_log_n(sizes: Sequence[int]) -> list[float]:
    """What the target lets seconds grow like."""
    return [float(size * np.log(size)) for size in sizes]


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The exponent of a power of n that fits best: least squares of the logarithms."""
    return round(float(np.polyfit(np.log(sizes), np.log(values), 1)[0]), 3)


def measured(queries: Sequence[Question], pool: Sequence[Question], model: str | None) -> dict[str, float]:
    """Seconds of each step, and the pairs; in a process that has done nothing before."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLOSEDBOOK_CACHE"] = folder
        embed = Embedder(model) if model else None
        list(compare(FIRST[:1], FIRST[1:], embed=embed))  # imports, tables and the model are no part of the growth
        marks = [time.perf_counter()]
        ordered = sorted(pool, key=lambda question: question.id)
        if embed:  # the retriever then finds them on disk
            embed(ordered)
            embed(queries)
        marks += [time.perf_counter()]
        made = retrievers(ordered, embed)
        marks += [time.perf_counter()]
        pairs = len(list(rules(pairs_found(queries, ordered, made.values()))))
        marks += [time.perf_counter()]
    embedding, index, query = (round(end - start, 3) for start, end in pairwise(marks))
    steps = {"index": index, "query": query} | ({"embedding": embedding} if embed else {})
    return {"seconds": round(marks[-1] - marks[0], 3), **steps, "pairs": pairs}


def alone(queries: Sequence[Question], pool: Sequence[Question], model: str | None) -> dict[str, float]:
    """The same, in a new process that is handed the questions, so that making them leaves nothing known there."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(measured, queries, pool, model).result()


def drawn(count: int) -> tuple[list[Question], list[Question]]:
    """The questions that are asked, and a pool of `count` others whose beginnings are the smaller pools."""
    chance = Random(2605)
    real = [question for name in ("nq", "triviaqa") for question in questions_of(name).values()]
    chance.shuffle(real)
    return real[:QUERIES], list(islice(endless(real[QUERIES:], chance), count))


def curve(queries: Sequence[Question], pool: Sequence[Question], model: str | None = None) -> Curve:
    """The curve up to the whole pool."""
    sizes = [size for size in POOLS if size < len(pool)] + [len(pool)]
    return Curve({size: alone(queries, pool[:size], model) for size in sizes})


def curves(largest: int, model: str | None, largest_embedded: int) -> dict[str, Curve]:
    """The curve without embeddings and, where a model is named, the one with them."""
    queries, pool = drawn(largest)
    found = {"seconds": curve(queries, pool)}
    return found | ({"with_embeddings": curve(queries, pool[:largest_embedded], model)} if model else {})


def figure_type() -> Any:
    """Matplotlib's Figure; imported by name, since mypy runs where it is not installed.

    Raises:
        SystemExit: It is not installed.
    """
    try:
        return import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise SystemExit("--plot needs matplotlib; pip install 'closedbook[report]'") from error


def plot(found: Mapping[str, Curve], path: Path) -> None:
    """Draw seconds against the size of the pool, each curve beside n log n from its first point."""
    drawing = figure_type()(figsize=(6, 4), layout="constrained")
    axes = drawing.subplots()
    for name, one in found.items():
        sizes = list(one.pools)
        unit = n_log_n(sizes)
        (line,) = axes.loglog(sizes, one.seconds(), marker="o", label=name.replace("_", " "))
        reference = [value / unit[0] * one.seconds()[0] for value in unit]
        axes.loglog(sizes, reference, linestyle="--", color=line.get_color(), label="n log n")
    axes.set_xlabel("questions in the pool")
    axes.set_ylabel(f"seconds for the candidates of {QUERIES} questions")
    axes.legend()
    drawing.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    """Run all and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="?", help="labelled pairs, for recall")
    parser.add_argument("--only", choices=("recall", "seconds"))
    parser.add_argument("--embeddings", metavar="MODEL", help="minilm, or a sentence-transformers model")
    parser.add_argument("--largest", type=int, default=POOLS[-1], help="questions of the largest pool")
    parser.add_argument("--largest-embedded", type=int, default=10_000, help="the same where embeddings are made")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the seconds; needs matplotlib")
    options = parser.parse_args()
    if options.pairs is None and options.only != "seconds":
        parser.error("recall needs PAIRS.jsonl; name it, or ask for --only seconds")
    if options.plot:
        figure_type()  # before the minutes that the rest takes
    embed = Embedder(options.embeddings) if options.embeddings else None
    figures: dict[str, object] = {}
    if options.only != "seconds":
        figures["recall"] = recall(options.pairs, embed)
    if options.only != "recall":
        found = curves(options.largest, options.embeddings, options.largest_embedded)
        figures |= {name: one.figures() for name, one in found.items()}
    print(json.dumps(figures, indent=2))
    if options.plot and options.only != "recall":
        plot(found, options.plot)


if __name__ == "__main__":
    main()
