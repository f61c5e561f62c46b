"""Probability mass: how much of it a model puts on right answers, before training and after, and where it came from.

A question's answers are listed with their probabilities (harness.likelihood) and judged, so that "the right answer
climbed from rank 7 to rank 1" is read off and not sampled. What surprises:

- The mass of right answers is a lower bound: what is not listed may be right too. The upper bound is stated with it.
- A rank is one among listed answers, spellings of one answer taken together. Where no right answer is listed there is
  none: it is rarer than the listing's bound in each of its spellings.
- The log-probability of a gold answer is that of its very words. A model that answers in sentences gives them little,
  however well it knows the fact; the mass of right answers counts such sentences.

    >>> said = (Listed("Rome", 0.5, 0.0), Listed("Paris", 0.2, 1.0), Listed("the Paris", 0.1, 1.0))
    >>> mass = QuestionMass("q", (Scored("Paris", -1.6, 2),), said)
    >>> round(mass.right, 3), round(mass.unknown, 3), mass.rank
    (0.3, 0.2, 2)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from closedbook.harness.fields import flat, public
from closedbook.harness.likelihood import Scored
from closedbook.harness.sample_store import Head
from closedbook.harness.statistics import Estimate, bootstrapped_mean, bootstrapped_means, proportion
from closedbook.harness.study.tables import Analysis
from closedbook.harness.text import answer_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Listed(NamedTuple):
    """One text that a model may give as its answer.

    Attributes:
        text: The answer.
        probability: In all its tokens that are listed.
        reward: 1 for right, 0 for wrong, None where the judge failed.
    """

    text: str
    probability: float
    reward: float | None


@dataclass(frozen=True, slots=True)
class QuestionMass:
    """What a model may answer to one question.

    Attributes:
        id: Of the question.
        golds: Its gold answers, scored, in the source's order.
        answers: All likely answers, each text once, the likeliest first.
    """

    id: str
    golds: tuple[Scored, ...]
    answers: tuple[Listed, ...]

    @property
    def right(self) -> float:
        """Probability of the answers that are listed and right: a lower bound."""
        return math.fsum(said.probability for said in self.answers if said.reward == 1)

    @property
    def unknown(self) -> float:
        """Probability of what is not listed, or listed and not graded; `right` + `unknown` is the upper bound."""
        known = math.fsum(said.probability for said in self.answers if said.reward is not None)
        return max(0.0, 1 - known)

    @property
    def grades(self) -> list[float | None]:
        """Of the different answers, the likeliest first: 1, 0, or None where the judge failed.

        Texts with one `answer_key` are one answer, with the grade of the likeliest of them.
        """
        sums: dict[str, float] = {}
        grades: dict[str, float | None] = {}
        for said in self.answers:
            key = answer_key(said.text)
            sums[key] = sums.get(key, 0.0) + said.probability
            grades.setdefault(key, said.reward)
        return [grades[key] for key in sorted(sums, key=lambda key: -sums[key])]

    @property
    def rank(self) -> int | None:
        """Rank of the first right answer, 1 for the likeliest; None where no right one is listed."""
        return next((rank for rank, grade in enumerate(self.grades, 1) if grade == 1), None)

    @property
    def first(self) -> float:
        """1 where the first answer is right, 0 where it is wrong or none is listed, NaN where it is not graded."""
        grade = next(iter(self.grades), 0.0)
        return math.nan if grade is None else grade

    @property
    def gold(self) -> float | None:
        """Log-probability of the likeliest gold answer; None without gold answers."""
        return max((gold.log_prob for gold in self.golds), default=None)

    @property
    def group(self) -> str:
        """What questions with the same first gold answer have in common."""
        return answer_key(self.golds[0].text) if self.golds else self.id


class MassRun(NamedTuple):
    """A folder of `closedbook likelihood`, read."""

    name: str
    head: Head
    questions: Sequence[QuestionMass]


class Summary(NamedTuple):
    """The mass of some questions; intervals are a bootstrap's over questions, those with one gold answer together.

    Attributes:
        right: Mean probability of a right answer, as far as listed.
        unknown: Mean probability of what is not known to be right or wrong.
        first: Share of questions whose first answer is right.
        gold: Median log-probability of the gold answer; None where most have none.
    """

    right: Estimate
    unknown: Estimate
    first: Estimate
    gold: float | None


def summary(questions: Sequence[QuestionMass]) -> Summary:
    """What these questions come to; nothing where there are none."""
    if not questions:
        return Summary(Estimate.unknown(), Estimate.unknown(), Estimate.unknown(), None)
    groups = [question.group for question in questions]
    right, unknown = bootstrapped_means([[question.right, question.unknown] for question in questions], groups)
    first = proportion(question.first for question in questions)
    gold = median(-math.inf if question.gold is None else question.gold for question in questions)
    return Summary(right, unknown, first, round(gold, 3) if math.isfinite(gold) else None)


def mass(before: MassRun, after: MassRun, of: Mapping[str, str] | None = None, names: Sequence[str] = ()) -> Analysis:
    """The mass of right answers before and after, and of what became first where it stood before.

    Args:
        before: The untrained model.
        after: The trained one, of the same questions.
        of: The bucket of each question, where samples of the untrained model are there.
        names: The buckets, in order.
    """
    first, second = ({question.id: question for question in run.questions} for run in (before, after))
    of = of or {}
    members = {name: [id for id in first if of.get(id) == name] for name in names} | {"all": list(first)}
    rows = [_row(name, [first[id] for id in ids], [second[id] for id in ids]) for name, ids in members.items()]
    became = [id for id in first if first[id].first == 0 and second[id].first == 1]
    lost = [id for id in first if first[id].first == 1 and second[id].first == 0]
    made = {
        "runs": {run.name: {"digest": run.head.digest, **public(run.head.settings)} for run in (before, after)},
        "became_first": {"questions": len(became), "rank_before": _ranks(first[id].rank for id in became)},
        "no_longer_first": {"questions": len(lost), "rank_after": _ranks(second[id].rank for id in lost)},
    }

    edge = 100 * float(flat(before.head.settings).get("listing.least", 0.001))

    def plot(axes: Axes) -> None:
        for label, ids, colour in (
            ("first answer unchanged", [id for id in first if id not in {*became, *lost}], "C7"),
            ("became first", became, "C0"),
            ("no longer first", lost, "C1"),
        ):
            xs, ys = ([max(edge, 100 * run[id].right) for id in ids] for run in (first, second))
            axes.scatter(xs, ys, s=14, color=colour, alpha=0.7, linewidths=0, label=f"{label} ({len(ids)})")
        axes.plot([edge, 100], [edge, 100], color="C7", lw=1, ls="--")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        axes.set_xlabel(f"right before, per cent, as far as listed ({edge:g}: none or less)")
        axes.set_ylabel("after, per cent")
        axes.legend(frameon=False)

    columns = (
        "bucket", "questions", "right before, at least", "right after, at least", "difference of these",
        "not known before", "not known after", "gold log-prob before", "gold log-prob after", "first before",
        "first after", "became first", "of these listed before",
    )  # fmt: skip
    title = "Probability of right answers before and after"
    return Analysis("mass", title, columns, rows, made, plot)


def _row(name: str, before: Sequence[QuestionMass], after: Sequence[QuestionMass]) -> list[Any]:
    one, other = summary(before), summary(after)
    changes = [second.right - first.right for first, second in zip(before, after, strict=True)]
    change = bootstrapped_mean(changes, [question.group for question in before])
    became = [first for first, second in zip(before, after, strict=True) if first.first == 0 and second.first == 1]
    listed = proportion(float(question.rank is not None) for question in became)
    return [name, len(before), one.right, other.right, change, one.unknown, other.unknown, one.gold, other.gold,
            one.first, other.first, len(became), listed]  # fmt: skip


def _ranks(ranks: Any) -> dict[str, int]:
    """How often each rank occurs, the best first; those without one last."""
    counts = Counter(ranks)
    order = sorted(counts, key=lambda rank: math.inf if rank is None else rank)
    return {"not listed" if rank is None else str(rank): counts[rank] for rank in order}
