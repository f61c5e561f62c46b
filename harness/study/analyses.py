"""The analyses of `closedbook analyze`: from folders of samples and evaluations to tables and figures.

What surprises: runs that are laid beside each other must answer the same questions with the same prompt and settings;
what differs is refused by its name, since a difference of two models would else be one of two prompts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from closedbook.harness.compare import Answered, Run, gold_group, how_asked, names_of, read_run, values
from closedbook.harness.compare import flips as flipped
from closedbook.harness.errors import RequestError
from closedbook.harness.evaluate import LOCAL_BACKENDS
from closedbook.harness.fields import difference, flat, public
from closedbook.harness.pass_at_k import first_k, passes
from closedbook.harness.sample_store import Head, SampleStore
from closedbook.harness.samples import QuestionSamples
from closedbook.harness.statistics import Estimate, bootstrapped_mean, holm, proportion
from closedbook.harness.study.accessibility import bucket_names, buckets, gains, recheck, repair_rate
from closedbook.harness.study.majority import majority
from closedbook.harness.study.tables import Analysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAY_DIFFER = ("model",)  # between runs of one analysis


class SampleRun(NamedTuple):
    """A folder of samples, read."""

    name: str
    head: Head
    samples: list[QuestionSamples]


def read_sample_runs(folders: Sequence[Path], n: int | None = None) -> list[SampleRun]:
    """Folders of samples of the same questions, drawn in the same way.

    Args:
        folders: At least one.
        n: Samples of each question to look at; None for as many as the folder with the fewest was asked for.

    Raises:
        RequestError: One is not whole, is not graded, or differs in more than the model.
    """
    stores = [SampleStore(folder) for folder in folders]
    heads = [store.head() for store in stores]
    for folder, head in zip(folders[1:], heads[1:], strict=True):
        require_alike(folders[0], heads[0], folder, head)
    least = min(head.n for head in heads) if n is None else n
    samples = [store.whole(least) for store in stores]
    return [SampleRun(*run) for run in zip(names_of(folders), heads, samples, strict=True)]


def at_most(run: SampleRun, n: int | None) -> int:
    """The samples of each question that are looked at; all for None.

    Raises:
        RequestError: More than there are.
    """
    there = min(question.drawn for question in run.samples)
    if (n or 0) > there:
        raise RequestError(f"{run.name} holds {there} samples of each question, not {n}; draw more with -n")
    return n or there


def require_alike(first: Path, one: Head, second: Path, other: Head) -> None:
    """Refuse records of two folders that differ in more than the model, by the name of what differs.

    Raises:
        RequestError: They do.
    """
    if found := difference(one.settings, other.settings, MAY_DIFFER):
        raise RequestError(
            f"{first} and {second} cannot be laid beside each other: {found.name} is {found.first!r} and "
            f"{found.second!r}; make both in the same way"
        )
    if set(one.ids) != set(other.ids):
        raise RequestError(
            f"{first} and {second} are of other questions; make both with the same --limit, and merge shards"
        )


def answers_beside(folder: Path, run: SampleRun, *, cot: bool = False, same_model: bool = True) -> dict[str, Answered]:
    """The answers of an evaluation to the questions that were sampled, by question id.

    Args:
        folder: Of the evaluation.
        run: The samples.
        cot: Whether the answers come with a chain of thought.
        same_model: Whether the model that was sampled has to have given them.

    Raises:
        RequestError: It holds none, answers other questions, or was asked or graded in another way.
    """
    _check_beside(folder, run.head, same_model)
    every = read_run(folder)
    tasks = {task: answers for task, answers in every.items() if task.endswith("_cot") == cot}
    if not tasks:
        wanted = "--cot: one that ends in _cot" if cot else "--greedy: one without _cot"
        raise RequestError(f"{folder} answers {', '.join(every)}; evaluate the task for {wanted}")
    found = all_answers(tasks)
    ids = [question.id for question in run.samples]
    if missing := [id for id in ids if id not in found]:
        raise RequestError(
            f"{folder} answers {len(ids) - len(missing)} of the {len(ids)} questions that were sampled; evaluate the "
            "same task and split"
        )
    return {id: found[id] for id in ids}


def _check_beside(folder: Path, head: Head, same_model: bool) -> None:
    """Refuse an evaluation of something else than was sampled; plain lm_eval does not say of what one is."""
    asked = how_asked(folder)
    if not asked:
        return
    named = {"judge": asked["judge"], "task": {"split": asked["split"]}}
    if same_model:
        named["chat"] = asked["chat"]
        if asked["backend"] in LOCAL_BACKENDS and head.settings.get("engine", {}).get("engine") != "server":
            named["model"] = asked["identity"]  # a server's model is known by its name alone
    evaluated, sampled = flat(named), flat(head.settings)
    for name in sorted(evaluated):
        if name in sampled and evaluated[name] != sampled[name]:
            raise RequestError(
                f"{folder} and the samples cannot be laid beside each other: {name} is {evaluated[name]!r} and "
                f"{sampled[name]!r}; evaluate what was sampled"
            )


def values_of(answers: Mapping[str, Answered]) -> dict[str, float]:
    """Whether each answer is right: 1, 0, or NaN where that is not known; by question id."""
    return {id: answered.value for id, answered in answers.items()}


def all_answers(run: Run) -> dict[str, Answered]:
    """The answers of an evaluation to all its tasks, by question id.

    Raises:
        RequestError: A question was asked by two tasks, as with a chain of thought and without.
    """
    for one, other in combinations(run, 2):
        if run[one].keys() & run[other].keys():
            raise RequestError(f"{one} and {other} ask the same questions; choose one with --task")
    return {id: answered for task in run.values() for id, answered in task.items()}


def passk(runs: Sequence[SampleRun], greedy: Sequence[Mapping[str, Answered]] = ()) -> Analysis:
    """pass@k of each run for powers of two, the share of right samples, and greedy accuracy.

    Args:
        runs: The first one is the model before.
        greedy: Greedy answers of each run, in their order; none, or as many as runs. Their gold answers say which
            questions the bootstrap draws together; without them it draws single ones.
    """
    n = min(question.drawn for run in runs for question in run.samples)
    groups = [gold_group(greedy[0][question.id].golds) for question in runs[0].samples] if greedy else None
    curves = []
    rows: list[list[Any]] = []
    for at, run in enumerate(runs):
        points = passes(run.samples, n, groups)
        curves.append((run.name, points))
        accuracy = proportion(values(greedy[at])) if greedy else None
        reached = first_k(curves[0][1], accuracy.value) if accuracy and accuracy.value is not None else None
        for point in points:
            low, high = point.bounds
            bounds = f"{100 * low:.1f} to {100 * high:.1f}" if low < high else None
            rows.append([run.name, point.k, point.estimate, bounds, accuracy, reached])

    def plot(axes: Axes) -> None:
        for name, points in curves:
            ks = [point.k for point in points]
            axes.plot(ks, [100 * (point.estimate.value or 0) for point in points], marker="o", label=name)
            known = [point for point in points if point.estimate.low is not None]
            axes.fill_between(
                [point.k for point in known],
                [100 * (point.estimate.low or 0) for point in known],
                [100 * (point.estimate.high or 0) for point in known],
                alpha=0.2,
            )
        axes.set_xscale("log", base=2)
        axes.set_xlabel("k")
        axes.set_ylabel("pass@k, per cent")
        axes.legend(frameon=False)

    columns = ("run", "k", "pass@k", "if failures hide", "greedy", "k of the first run for that")
    return Analysis("passk", "pass@k with 95 % intervals over questions", columns, rows, _made_from(runs), plot)


def accessibility(
    run: SampleRun, before: Mapping[str, Answered], after: Mapping[str, Answered], n: int | None = None
) -> Analysis:
    """The gain of each bucket of questions, by how many of the untrained model's n samples are right.

    Args:
        run: Samples of the model before.
        before: Its greedy answers, by question.
        after: Those of the trained model.
        n: Samples that make the buckets; further ones are used to recheck bucket 0. None for all of them.
    """
    n = at_most(run, n)
    of = buckets(run.samples, n)
    told, later = values_of(before), values_of(after)
    found = gains(of, told, later, bucket_names(n), {id: gold_group(answered.golds) for id, answered in before.items()})
    adjusted = iter(holm([gain.paired.p for gain in found if gain.before.n]))  # a bucket without questions is no test
    rows: list[list[Any]] = [
        [gain.bucket, gain.before.n, gain.before, gain.after, gain.paired.difference, gain.paired.gained,
         gain.paired.lost, next(adjusted) if gain.before.n else None, gain.share]
        for gain in found
    ]  # fmt: skip
    repaired = repair_rate(of, told, later)
    ungraded = len(run.samples) - len(of)
    made: dict[str, Any] = {
        **_made_from([run]), "n": n, "repair_rate_of_0": _estimate(repaired), "left_out_as_ungraded": ungraded,
    }  # fmt: skip
    more = min(question.drawn for question in run.samples) - n
    if more > 0:
        again = recheck(run.samples, n, more)
        told_of = {"more": more, "found": _estimate(again.found), "missed_if_rare": again.missed}
        made |= {"recheck": {**told_of, "hidden_by_failures": again.hidden}}

    def plot(axes: Axes) -> None:
        shown = [gain for gain in found if gain.before.n]
        places = range(len(shown))
        for shift, name in ((-0.2, "before"), (0.2, "after")):
            values = [getattr(gain, name).value or 0 for gain in shown]
            reach = [
                [value - (getattr(gain, name).low or 0) for value, gain in zip(values, shown, strict=True)],
                [(getattr(gain, name).high or 0) - value for value, gain in zip(values, shown, strict=True)],
            ]
            axes.bar(
                [place + shift for place in places],
                [100 * value for value in values],
                width=0.4,
                yerr=[[100 * max(0.0, one) for one in side] for side in reach],
                label=name,
                error_kw={"lw": 1},
            )
        axes.set_xticks(list(places), [f"{gain.bucket}\nn={gain.before.n}" for gain in shown])
        axes.set_xlabel(f"right of {n} samples before training")
        axes.set_ylabel("greedy accuracy, per cent")
        axes.legend(frameon=False)

    columns = (
        "bucket", "questions", "before", "after", "difference", "gained", "lost", "p (Holm)", "share of the gain",
    )  # fmt: skip
    return Analysis("accessibility", "Greedy accuracy by accessibility", columns, rows, made, plot)


def bucketed(run: SampleRun, n: int | None = None) -> Analysis:
    """The bucket of each question by its first n samples: what `subset.buckets` of a recipe reads."""
    n = at_most(run, n)
    of = buckets(run.samples, n)
    rows = [[id, name] for id, name in sorted(of.items(), key=lambda pair: (bucket_order(pair[1]), pair[0]))]
    counts = {name: list(of.values()).count(name) for name in bucket_names(n)}
    ungraded = len(run.samples) - len(of)
    made = {**_made_from([run]), "n": n, "questions": counts, "left_out_as_ungraded": ungraded}
    return Analysis("buckets", "The bucket of each question", ("id", "bucket"), rows, made)


def voting(runs: Sequence[SampleRun]) -> Analysis:
    """Accuracy of the answer that most of k samples give, beside the mean sample."""
    n = min(question.drawn for run in runs for question in run.samples)
    ks = [k for k in (1 << power for power in range(n.bit_length())) if k <= n]
    rows: list[list[Any]] = []
    curves = []
    for run in runs:
        sampled = bootstrapped_mean([q.right / (q.drawn - q.failed) for q in run.samples if q.drawn > q.failed])
        found = majority(run.samples, ks)
        curves.append((run.name, found))
        rows += [[run.name, voted.k, voted.accuracy, sampled] for voted in found]

    def plot(axes: Axes) -> None:
        for name, found in curves:
            axes.plot([v.k for v in found], [100 * (v.accuracy.value or 0) for v in found], marker="o", label=name)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("votes")
        axes.set_ylabel("accuracy, per cent")
        axes.legend(frameon=False)

    columns = ("run", "votes", "majority", "mean sample")
    return Analysis("majority", "Majority voting over samples", columns, rows, _made_from(runs), plot)


def flips(
    before: Mapping[str, Answered], after: Mapping[str, Answered], of: Mapping[str, str] | None = None
) -> Analysis:
    """Each question whose greedy answer changed sides: the wrong ones that became right, then the right that were lost.

    Args:
        before: The answers of the first run, by question id.
        after: Those of the second run, of the same questions.
        of: The bucket of each question, where samples of the first run are there.
    """
    sides = flipped(before, after)
    rows: list[list[Any]] = [
        [change, (of or {}).get(id), id, before[id].question, before[id].answer, after[id].answer, before[id].golds[0]]
        for change, ids in zip(("gained", "lost"), sides, strict=True)
        for id in sorted(ids, key=lambda id: (bucket_order((of or {}).get(id)), id))
    ]
    known = [id for id in before if not math.isnan(before[id].value + after[id].value)]
    columns = ("change", "bucket", "id", "question", "before", "after", "gold")
    made = {"questions": len(known), "gained": len(sides[0]), "lost": len(sides[1])}
    return Analysis("flips", "Answers that changed sides", columns, rows, made)


def bucket_order(name: str | None) -> int:
    """Sorts buckets as they count; questions without one come last."""
    return int(name.partition("-")[0]) if name else sys.maxsize


def _made_from(runs: Sequence[SampleRun]) -> dict[str, Any]:
    return {
        "runs": {run.name: {"digest": run.head.digest, "n": run.head.n, **public(run.head.settings)} for run in runs}
    }


def _estimate(estimate: Estimate) -> dict[str, float | int | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
