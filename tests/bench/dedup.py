"""How well and how fast candidates are found, on the real benchmarks.

    $ CLOSEDBOOK_DATA=DIR python tests/bench/dedup.py PAIRS.jsonl [--embeddings minilm] [--largest 100000]

Prints JSON:
- `recall`: on the labelled same_fact pairs whose questions are in the sources, searched among all questions of their
  benchmark: the share found with at most k candidates of each retriever, for each alone, for the union, for the union
  without each, and how many different candidates a question then has (target: 0.99 at 20 or fewer);
- `seconds`: to find and decide the candidates of 500 questions in pools of 1,000 questions and more, real ones repeated
  and perturbed (target: no faster than n log n), and the same over n log n, relative to the smallest pool.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from closedbook.harness.dedup import Embed, compare
from closedbook.harness.dedup.candidates import retrievers
from closedbook.harness.dedup.embeddings import embedder
from closedbook.harness.dedup.score import POSITIVE, read_pairs
from closedbook.harness.questions import Question, make_question
from closedbook.harness.sources import benchmarks
from closedbook.harness.splits import read_sources

CUTS = (1, 2, 3, 5, 8, 10, 15, 20, 30, 50)
QUERIES = 500
Found = Mapping[str, Sequence[str]]  # by retriever, ids in its order


def questions_of(name: str) -> dict[str, Question]:
    """All questions of a benchmark's source, by id."""
    return {question.id: question for source in read_sources(benchmarks()[name]) for question in source.questions}


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


def perturbed(question: Question, round_: int, chance: random.Random) -> Question:
    """The question with two words exchanged and a new one, so that it is another one of the same kind."""
    words = question.question.split()
    if round_:
        a, b = chance.randrange(len(words)), chance.randrange(len(words))
        words[a], words[b] = words[b], f"{words[a]} variant{round_}x{chance.randrange(1000)}"
    return make_question(question.benchmark, " ".join(words), question.answers)


def scaling(largest: int, embed: Embed | None) -> dict[str, object]:
    """Seconds for the candidates of QUERIES questions against growing pools."""
    chance = random.Random(2605)
    real = [question for name in ("nq", "triviaqa") for question in questions_of(name).values()]
    chance.shuffle(real)
    queries, rest = real[:QUERIES], real[QUERIES:]
    endless = (perturbed(question, round_, chance) for round_ in range(10**6) for question in rest)
    pool: list[Question] = []
    seconds: dict[int, dict[str, float]] = {}
    for size in (n for n in (1_000, 3_000, 10_000, 30_000, 100_000) if n <= largest):
        pool += islice(endless, size - len(pool))
        start = time.perf_counter()
        pairs = len(list(compare(queries, pool, embed=embed)))
        seconds[size] = {"seconds": round(time.perf_counter() - start, 2), "pairs": pairs}
    first = next(iter(seconds))
    unit = seconds[first]["seconds"] / (first * math.log(first))
    over = {size: round(found["seconds"] / (size * math.log(size)) / unit, 2) for size, found in seconds.items()}
    return {"pools": seconds, "over_n_log_n": over}


def main() -> None:
    """Run all and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--embeddings")
    parser.add_argument("--largest", type=int, default=100_000)
    options = parser.parse_args()
    embed = embedder(options.embeddings) if options.embeddings else None
    figures = {"recall": recall(options.pairs, embed), "seconds": scaling(options.largest, None)}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
