"""Builds harness/dedup/word_counts.txt: in how many questions of the benchmarks each common word occurs.

    $ CLOSEDBOOK_DATA=DIR python ci/build_word_counts.py

Words are in the one form that `closedbook.harness.dedup.profiles` gives them; those in fewer than LEAST questions are
left out, so nothing of a single question shows. The file is sorted, one line for all words of one count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from closedbook.harness.dedup.profiles import normal_words
from closedbook.harness.sources import packaged
from closedbook.harness.splits import read_sources

LEAST = 6
TARGET = Path(__file__).resolve().parents[1] / "harness" / "dedup" / "word_counts.txt"


def word_counts() -> str:
    """The text of the file, from the sources as they are at hand."""
    questions, counts = 0, Counter[str]()
    for chosen in packaged().values():
        for source in {source.split: source for source in read_sources(chosen)}.values():
            questions += len(source.questions)
            for question in source.questions:
                counts.update(set(normal_words(question.question)))
    by_count: dict[int, list[str]] = defaultdict(list)
    for word, count in counts.items():
        by_count[count].append(word)
    lines = (
        f"{count} {' '.join(sorted(by_count[count]))}\n" for count in sorted(by_count, reverse=True) if count >= LEAST
    )
    return f"{questions} questions\n" + "".join(lines)


if __name__ == "__main__":
    TARGET.write_text(word_counts(), encoding="utf-8")
