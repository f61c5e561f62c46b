"""Which test questions do training rows ask for?

What surprises: a row that is UNSURE counts as a match, as it does in our own splits. A row without answers can be no
more than that, so it must have most words in common with a test question: of 2,000 rows of NQ and PopQA stripped of
their answers 9 in 100 match, many of them without need; of 150 labelled pairs of one fact 113 are found. Neighbours by
words (BM25) are sought among all test questions that are compared with, so a choice of other benchmarks can change
which of the less similar rows match.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from closedbook.harness.dedup.candidates import pairs_found, retrievers
from closedbook.harness.dedup.own_parts import Match, Part
from closedbook.harness.dedup.own_rows import Row
from closedbook.harness.dedup.profiles import forget_profiles, profile
from closedbook.harness.dedup.rules import balance, overlap, rules
from closedbook.harness.questions import Question, unique_answers

REMEMBERED = 8_000_000  # characters of rows whose profiles may stay in memory
BY_WORDS = 0.6  # share of what two questions say that must be common where the row has no answers
OWN = "train"  # stands for a benchmark in questions made of training rows; they have no facts and fill no forms


def row_question(row: Row) -> Question:
    """A training row as a question; its id is the row's number."""
    return Question(str(row.number), OWN, " ".join(row.question.split()), unique_answers(row.answers))


def kinds(row: Row) -> Iterator[str]:
    """What a row counts as in the report."""
    yield "read"
    if row.skipped:
        yield f"skipped: {row.skipped}"
    elif not row.answers:
        yield "without answers"
    if row.cut:
        yield "cut"


def alike_by_words(ours: Question, theirs: Question) -> bool:
    """Whether most of what two questions say, on either side, is common to both.

    Asked where a row has no answers. The rules forgive all that the longer question adds, since answers that agree
    vouch for it; without answers "on which continent is Laos" would match "the capital of Laos", and a third of NQ.
    """
    a, b = profile(ours), profile(theirs)
    weighed = balance(a, b, overlap(a, b), frozenset())
    return a.key == b.key or weighed.told >= BY_WORDS * (weighed.told + weighed.poorer + weighed.richer)


class Matcher:
    """The test questions, indexed once, that chunks of training rows are compared with.

    All retrievers are used, although BM25 takes a third of the time: those that look for answers find no row without
    answers, and of the matches of 6,000 rows of NQ and PopQA one in six was found by BM25 alone.
    """

    def __init__(self, questions: Iterable[Question]) -> None:
        self._questions = sorted(questions, key=lambda question: question.id)
        self._indices = retrievers(self._questions)
        self._remembered = 0  # characters

    def compare(self, rows: Sequence[Row]) -> Part:
        """What a chunk of rows holds."""
        usable = {str(row.number): row for row in rows if not row.skipped}
        queries = [row_question(row) for row in usable.values()]
        pairs = list(pairs_found(queries, self._questions, self._indices.values()))
        decided = zip(pairs, rules((ours, theirs) for theirs, ours in pairs), strict=True)
        matches = [
            Match(
                usable[d.candidate].number, usable[d.candidate].id, ours.benchmark, ours.id, d.verdict, d.rule, d.score
            )
            for (theirs, ours), d in decided
            if d.drops and (theirs.answers or alike_by_words(ours, theirs))
        ]
        self._forget(usable.values())
        return Part(Counter(kind for row in rows for kind in kinds(row)), matches)

    def _forget(self, rows: Iterable[Row]) -> None:
        """Empty the caches now and then: they count entries, however long, and rows may be long.

        Not after each chunk, because the profiles of the test questions go too and are made again as they are needed.
        """
        self._remembered += sum(len(row.question) + sum(map(len, row.answers)) for row in rows)
        if self._remembered > REMEMBERED:
            forget_profiles()
            self._remembered = 0
