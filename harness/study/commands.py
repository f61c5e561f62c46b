"""`closedbook sample` and `analyze`: found by the command line in the entry point group `closedbook.commands`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from closedbook.harness.cli import (
    AddressFlag,
    JsonFlag,
    WorkersFlag,
    cluster_of,
    end_if_too_many,
    judge_flags,
    people,
    print_json,
    print_spending,
    print_table,
    with_flags,
)
from closedbook.harness.judge.settings import JudgeSettings

if TYPE_CHECKING:
    from closedbook.harness.compare import Run
    from closedbook.harness.study.sample import Drawn
    from closedbook.harness.study.tables import Analysis, Input

WORDS = "closedbook.words"  # of a command as it was given, in its context


@with_flags("settings", judge_flags)
def sample_command(
    model: Annotated[
        str,
        typer.Argument(
            help="Model folder, hub id, or smollm2, gemma-270m, qwen-0.5b; with openai, its name on the server."
        ),
    ],
    task: Annotated[str, typer.Option(help="One task; see `closedbook tasks list`.")] = "worldfacts_dedup",
    split: Annotated[str, typer.Option(help="test, validation, train or dropped.")] = "test",
    n: Annotated[int, typer.Option("-n", min=1, help="Samples of each question.")] = 128,
    temperature: Annotated[float, typer.Option(help="Above 0; 1 is the model's own distribution.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Share of the probability to draw from.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Likeliest tokens to draw from; 0 for all.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    seed: Annotated[int, typer.Option(help="Another seed draws other samples.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many questions: a random sample, the one of `eval`.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="I/N, such as 2/8: every N-th question only, from the I-th; `closedbook sample-merge` joins all N.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="hf (transformers), vllm, openai (any such server), or ray: the workers of a Ray cluster."),
    ] = "hf",
    address: AddressFlag = None,
    workers: WorkersFlag = None,
    worker_engine: Annotated[
        str | None, typer.Option(help="With --engine ray what each worker draws with: hf or vllm. [hf]")
    ] = None,
    base_url: Annotated[str, typer.Option(help="The server's address, with --engine openai.")] = "",
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Chat template; by default if there is one.")
    ] = None,
    *,
    settings: JudgeSettings,
    grade: Annotated[
        bool, typer.Option("--grade/--no-grade", help="Grade the samples now, or with the same command another day.")
    ] = True,
    allow_contaminated: Annotated[
        bool, typer.Option("--allow-contaminated", help="Ask a checkpoint questions that it was trained on.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the samples; the same one is added to. [runs/sample-MODEL-TASK-SPLIT, and -2of8 for a "
            "shard]"
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Draw many answers to each question: what the model can say, not only what it says first.

    Example: `closedbook sample smollm2 --task worldfacts_dedup -n 32 --out runs/base`, and later
    `-n 128` with the same folder, which draws the other 96. A run that is killed goes on where it was. Prints the share
    of samples that are right and pass@k, with intervals over questions.

    With `--engine ray` the workers of a Ray cluster draw: `ray start --head` here, `ray start --address=HEAD:6379` on
    every other machine, then this command here with `--engine ray`. A worker takes a GPU, or a processor where the
    cluster has no GPU. Every node needs closedbook, in the same version, and the model in the same place; this machine
    alone needs the questions (CLOSEDBOOK_DATA), the judge's key and the folder, and grades. The folder is the one of a
    single process, and either goes on with the other's. A node that is lost, or joins late, changes nothing in it.
    """
    from closedbook.harness.errors import RequestError
    from closedbook.harness.judge import make_judge
    from closedbook.harness.sampling import Sampling
    from closedbook.harness.shards import parse_shard
    from closedbook.harness.study.sample import Request, sample

    names: dict[str, Literal["hf", "vllm", "openai"]] = {"hf": "hf", "vllm": "vllm", "openai": "openai"}
    cluster = cluster_of(engine, list(names), address, workers)
    if (worker_engine is not None and not cluster) or worker_engine not in (None, "hf", "vllm"):
        raise RequestError("--worker-engine is hf or vllm, and goes with --engine ray")
    if not 0 < temperature < math.inf or not 0 < top_p <= 1:
        raise RequestError("--temperature is above 0 and --top-p above 0 and at most 1; for greedy answers use `eval`")
    request = Request(
        model,
        task,
        split,
        n,
        Sampling(temperature, top_p, top_k, max_new_tokens, seed),
        names[(worker_engine or "hf") if cluster else engine],
        base_url,
        "auto" if chat is None else chat,
        limit,
        out,
        allow_contaminated,
        None if shard is None else parse_shard(shard),
        cluster,
    )
    done = sample(request, settings if grade else None)
    if grade:
        print_spending(make_judge(settings))
    _show_drawn(done, as_json)
    if grade:
        _end_if_too_many(done.counts.ungraded, done.counts.samples, settings, done.folder)


def sample_merge_command(
    out: Annotated[Path, typer.Argument(help="Folder of all samples; one that was merged before is added to.")],
    shards: Annotated[list[Path], typer.Argument(help="Folders of `closedbook sample --shard`, all of them.")],
    as_json: JsonFlag = False,
) -> None:
    """Join the shards of `closedbook sample` into one folder of samples, as one process would have drawn them.

    Example: `closedbook sample MODEL --shard 1/2 --out runs/s1` on one machine, `--shard 2/2 --out runs/s2` on another,
    then `closedbook sample-merge runs/sample runs/s1 runs/s2`. The shards stay as they are, and merging again is
    harmless: after a larger -n of all shards it adds the rest.
    """
    from closedbook.harness.study.merge import merge

    _show_drawn(merge(out, shards), as_json)


def _show_drawn(done: Drawn, as_json: bool) -> None:
    if as_json:
        print_json(
            {"folder": done.folder, "counts": done.counts, "pass_at_k": [point._asdict() for point in done.passes]}
        )
    else:
        print(done.counts.describe())
        if done.passes:
            print_table(
                "pass@k in per cent, with 95 % intervals", ["k", "pass@k"], [[p.k, p.estimate] for p in done.passes]
            )
    people.print(f"samples: {done.folder}", highlight=False, markup=False, soft_wrap=True)


@with_flags("settings", judge_flags)
def likelihood_command(
    model: Annotated[str, typer.Argument(help="Model folder, hub id, or smollm2, gemma-270m, qwen-0.5b.")],
    task: Annotated[str, typer.Option(help="One task; see `closedbook tasks list`.")] = "worldfacts_dedup",
    split: Annotated[str, typer.Option(help="test, validation, train or dropped.")] = "test",
    least: Annotated[float, typer.Option(help="Smallest probability of an answer that is listed.")] = 0.001,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many questions: a random sample, the one of `eval`.")
    ] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Chat template; by default if there is one.")
    ] = None,
    *,
    settings: JudgeSettings,
    allow_contaminated: Annotated[
        bool, typer.Option("--allow-contaminated", help="Ask a checkpoint questions that it was trained on.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the figures; the same one is added to. [runs/likelihood-MODEL-TASK-SPLIT]"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """How likely a model is to give each answer: all likely ones listed and judged, and the gold answers scored.

    Example: `closedbook likelihood smollm2 --task worldfacts_dedup --limit 100 --out runs/likelihood-base`, the same of
    the trained model, then `closedbook analyze mass` of both. Nothing is sampled: an answer with a probability of
    --least or more is listed for certain. A run that is killed goes on where it was.
    """
    from closedbook.harness.judge import make_judge
    from closedbook.harness.study.likelihood import Request, likelihood
    from closedbook.harness.study.mass import summary

    request = Request(
        model, task, split, least, max_tokens, "auto" if chat is None else chat, limit, out, allow_contaminated
    )
    done = likelihood(request, settings)
    print_spending(make_judge(settings))
    found = summary(done.questions)
    if as_json:
        print_json({"folder": done.folder, "questions": len(done.questions), **found._asdict()})
    else:
        print_table(
            "Probability in per cent, with 95 % intervals; log-probability of the gold answer",
            ["questions", "right answers", "not known", "first answer right", "gold (median)"],
            [[len(done.questions), *found[:3], found.gold]],
        )
    people.print(f"probabilities: {done.folder}", highlight=False, markup=False, soft_wrap=True)
    answers = [said for question in done.questions for said in question.answers]
    _end_if_too_many(sum(said.reward is None for said in answers), len(answers), settings, done.folder)


def _end_if_too_many(ungraded: int, answers: int, settings: JudgeSettings, kept: Path) -> None:
    said = f"{ungraded:,} of {answers:,} answers could not be graded"
    end_if_too_many(ungraded, answers, said, settings, kept)


class _Analyses(TyperGroup):
    """Commands that find their words in the context as they were given: an analysis states the line that made it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        ctx.meta[WORDS] = ("analyze", *args)
        return super().resolve_command(ctx, args)


analyze_app = typer.Typer(
    cls=_Analyses,
    no_args_is_help=True,
    help="What samples and evaluations say of a model before and after training: tables and figures.",
)
Folders = Annotated[
    list[Path], typer.Argument(help="Folders of `closedbook sample`; the first one is the model before.")
]
Samples = Annotated[Path, typer.Argument(help="Folder of `closedbook sample`: the model before training.")]
TaskFlag = Annotated[str | None, typer.Option(help="This task only; all that the runs answer unless stated.")]
MetricFlag = Annotated[str, typer.Option(help="judge_correct, exact_match or contains.")]
OutFlag = Annotated[Path, typer.Option(help="Folder for the table (parquet, CSV, Markdown) and the figure (SVG, PNG).")]


@analyze_app.command("passk")
def passk_command(
    context: typer.Context,
    runs: Folders,
    greedy: Annotated[
        list[Path] | None, typer.Option(help="Run folder of `closedbook eval` for each, in the same order.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Samples of each question to look at.")] = None,
    out: OutFlag = Path("runs/analysis"),
    as_json: JsonFlag = False,
) -> None:
    """pass@k before and after, and the k at which the first run reaches what another one says first.

    Example: `closedbook analyze passk runs/sample-base runs/sample-grpo --greedy runs/eval-base --greedy
    runs/eval-grpo`.
    """
    from closedbook.harness.errors import RequestError
    from closedbook.harness.study.analyses import answers_beside, passk, read_sample_runs

    if greedy and len(greedy) != len(runs):
        raise RequestError(
            f"--greedy: {len(greedy)} evaluations for {len(runs)} runs; give one for each, in their order"
        )
    read = read_sample_runs(runs, n)
    of = list(zip(greedy or (), read, strict=bool(greedy)))
    found = passk(read, [answers_beside(folder, run) for folder, run in of])
    _show(context, found, [*runs, *(greedy or ())], out, as_json)


@analyze_app.command("accessibility")
def accessibility_command(
    context: typer.Context,
    samples: Samples,
    before: Annotated[Path, typer.Option(help="Run folder of `closedbook eval`: the same model.", show_default=False)],
    after: Annotated[
        Path, typer.Option(help="Run folder of `closedbook eval`: the trained model.", show_default=False)
    ],
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Samples that make the buckets; the others recheck bucket 0.")
    ] = None,
    out: OutFlag = Path("runs/analysis"),
    as_json: JsonFlag = False,
) -> None:
    """The gain of training by how often the untrained model says a fact when it is sampled.

    Example: `closedbook analyze accessibility runs/sample-base --before runs/eval-base --after runs/eval-grpo -n 64`.
    Buckets are 0, 1, 2-3, 4-7, ..., n of n right samples. "0 of 128" is not "unknown": where the folder holds more than
    -n samples, those beyond show how many of that bucket are rare and not absent.
    """
    from closedbook.harness.compare import require_alike
    from closedbook.harness.study.analyses import accessibility, answers_beside, read_sample_runs

    (run,) = read_sample_runs([samples])
    require_alike([before, after])
    told, later = answers_beside(before, run), answers_beside(after, run, same_model=False)
    _show(context, accessibility(run, told, later, n), [samples, before, after], out, as_json)


@analyze_app.command("majority")
def majority_command(
    context: typer.Context,
    runs: Folders,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Samples of each question to look at.")] = None,
    out: OutFlag = Path("runs/analysis"),
    as_json: JsonFlag = False,
) -> None:
    """Majority voting over k samples: what sampling alone gains, with nothing trained.

    Example: `closedbook analyze majority runs/sample-base runs/sample-grpo`.
    """
    from closedbook.harness.study.analyses import read_sample_runs, voting

    _show(context, voting(read_sample_runs(runs, n)), runs, out, as_json)


@analyze_app.command("flips")
def flips_command(
    context: typer.Context,
    before: Annotated[Path, typer.Argument(help="Run folder of `closedbook eval`: the model before training.")],
    after: Annotated[Path, typer.Argument(help="The same of the trained model.")],
    samples: Annotated[
        Path | None, typer.Option(help="Folder of `closedbook sample` of the model before, for the buckets.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Samples that make the buckets.")] = None,
    task: TaskFlag = None,
    out: OutFlag = Path("runs/analysis"),
    as_json: JsonFlag = False,
) -> None:
    """Which answers became right, and which were lost: every question, with both answers.

    Example: `closedbook analyze flips runs/eval-base runs/eval-grpo --samples runs/sample-base`.
    """
    from closedbook.harness.errors import RequestError
    from closedbook.harness.study.accessibility import buckets
    from closedbook.harness.study.analyses import all_answers, answers_beside, at_most, flips, read_sample_runs

    first, second = map(all_answers, _answers([before, after], task, "judge_correct"))
    if first.keys() != second.keys():
        common = len(first.keys() & second.keys())
        raise RequestError(f"{before} and {after} answer other questions: {common} in both; score both the same way")
    of = None
    if samples:
        (run,) = read_sample_runs([samples])
        answers_beside(before, run)  # of the same model, asked in the same way
        of = buckets(run.samples, at_most(run, n))
    _show(context, flips(first, second, of), [before, after, *([samples] if samples else [])], out, as_json)


@analyze_app.command("accuracy")
def accuracy_command(
    context: typer.Context,
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders of `closedbook eval`; the first one is the model before.")
    ],
    task: TaskFlag = None,
    metric: MetricFlag = "judge_correct",
    out: OutFlag = Path("runs/analysis"),
    as_json: JsonFlag = False,
) -> None:
    """Greedy accuracy of each checkpoint beside the first, with paired tests and the least difference they would find.

    Example: `closedbook analyze accuracy runs/eval-base runs/eval-sft runs/eval-grpo`. p values are of an exact
    sign-flip test (McNemar's, with questions that share a gold answer as one), adjusted for all differences of the
    table (Holm). The second interval of a difference draws such questions together too.
    """
    from closedbook.harness.compare import names_of
    from closedbook.harness.study.checkpoints import accuracy

    found = accuracy(dict(zip(names_of(runs), _answers(runs, task, metric), strict=True)))
    _show(context, found, runs, out, as_json)


@analyze_app.command("buckets")
def buckets_command(
    context: typer.Context,
    samples: Samples,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Samples that make the buckets.")] = None,
    out: OutFlag = Path("runs/analysis"),
    as_json: JsonFlag = False,
) -> None:
    """The bucket of each question, for `subset.buckets` of a recipe: training on the questions of one bucket only.

    Example: sample the train split, then `closedbook train grpo subset.buckets=runs/analysis/buckets.parquet
    subset.bucket=0`, and beside it, as a control, the same with subset.random=true.
    """
    from closedbook.harness.study.analyses import bucketed, read_sample_runs

    (run,) = read_sample_runs([samples])
    _show(context, bucketed(run, n), [samples], out, as_json, shown=12)


@analyze_app.command("attribution")
def attribution_command(
    context: typer.Context,
    base: Annotated[Path, typer.Argument(help="Run folder of `closedbook eval`: the model before training.")],
    full: Annotated[Path, typer.Argument(help="The same of the model that was trained on all questions.")],
    part: Annotated[
        list[str],
        typer.Option(help="NAME=FOLDER: a model trained on some; several seeds have one name.", show_default=False),
    ],
    leave_out_absent: Annotated[
        bool, typer.Option("--leave-out-absent", help="Leave out a part whose folder is not there, and say so.")
    ] = False,
    task: TaskFlag = None,
    metric: MetricFlag = "judge_correct",
    out: OutFlag = Path("runs/analysis"),
    as_json: JsonFlag = False,
) -> None:
    """What training on some of the questions gains, as a share of what training on all of them does.

    Example: `closedbook analyze attribution runs/eval/base runs/eval/grpo --part bucket_0=runs/eval/only0 --part
    random_as_0=runs/eval/random0`. A part bucket_X is also compared with a part random_as_X, its control.
    """
    from closedbook.harness.errors import RequestError
    from closedbook.harness.study.analyses import all_answers
    from closedbook.harness.study.checkpoints import Part, attribution

    named = [_named_folder(text) for text in part]
    absent = [(name, folder) for name, folder in named if leave_out_absent and not folder.exists()]
    for name, folder in absent:
        people.print(f"{name} is left out: there is no {folder}", highlight=False, markup=False, soft_wrap=True)
    if len(absent) == len(named):
        raise RequestError("--part: no folder of a part is there; evaluate one first")
    names, folders = zip(*(of for of in named if of not in absent), strict=True)
    before, whole, *others = map(all_answers, _answers([base, full, *folders], task, metric))
    trained_on = map(_trained_on, folders)
    parts = [Part(*of) for of in zip(names, others, trained_on, strict=True)]
    _show(context, attribution(before, whole, parts, _trained_on(full)), [base, full, *folders], out, as_json)


@analyze_app.command("transfer")
def transfer_command(
    context: typer.Context,
    base: Annotated[Path, typer.Argument(help="Run folder of `closedbook eval`: the model before training.")],
    trained: Annotated[
        list[str],
        typer.Option(help="BENCHMARK=FOLDER: a model that was trained on that benchmark.", show_default=False),
    ],
    metric: MetricFlag = "judge_correct",
    out: OutFlag = Path("runs/analysis"),
    as_json: JsonFlag = False,
) -> None:
    """What training on one benchmark gains on the others; test questions that the trained one states are left out.

    Example: `closedbook analyze transfer runs/eval/base --trained popqa=runs/eval/popqa --trained nq=runs/eval/nq`,
    each folder with the answers to all tasks.
    """
    from closedbook.harness.errors import RequestError
    from closedbook.harness.sources import benchmark, packaged
    from closedbook.harness.splits import read_overlaps
    from closedbook.harness.study.checkpoints import TrainedOn, overlaps_of, transfer

    names, folders = zip(*map(_named_folder, trained), strict=True)
    for name in names:
        benchmark(name)  # an unknown one would leave nothing out
        if names.count(name) > 1:
            raise RequestError(f"--trained {name} stands there twice; name one run of each benchmark")
    before, *after = _answers([base, *folders], None, metric)
    runs = [TrainedOn(*of) for of in zip(names, after, strict=True)]
    if own := sorted({*names, *(task.partition("_")[0] for task in before)} - packaged().keys()):
        said = f"note: what others state of {', '.join(own)}, and it of others, is not known, so it is not left out"
        people.print(said, highlight=False, markup=False, soft_wrap=True)
    _show(context, transfer(before, runs, overlaps_of(read_overlaps())), [base, *folders], out, as_json)


@analyze_app.command("mass")
def mass_command(
    context: typer.Context,
    before: Annotated[Path, typer.Argument(help="Folder of `closedbook likelihood`: the model before training.")],
    after: Annotated[Path, typer.Argument(help="The same of the trained model.")],
    samples: Annotated[
        Path | None, typer.Option(help="Folder of `closedbook sample` of the model before, for the buckets.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Samples that make the buckets.")] = None,
    out: OutFlag = Path("runs/analysis"),
    as_json: JsonFlag = False,
) -> None:
    """Probability of right answers before and after: what became the first answer, and where it stood before.

    Example: `closedbook analyze mass runs/likelihood-base runs/likelihood-grpo --samples runs/sample-base`. Probability
    that is not listed may be right too: it is the room between "right" and its upper bound.
    """
    from closedbook.harness.study.likelihood import buckets_beside, read_mass_runs
    from closedbook.harness.study.mass import mass

    first, second = read_mass_runs(before, after)
    found = mass(first, second, *(buckets_beside(first, samples, n) if samples else ()))
    _show(context, found, [before, after, *([samples] if samples else [])], out, as_json)


@analyze_app.command("baselines")
def baselines_command(
    context: typer.Context,
    samples: Annotated[Path, typer.Argument(help="Folder of `closedbook sample`.")],
    greedy: Annotated[Path, typer.Option(help="Run folder of `closedbook eval`: the same model.", show_default=False)],
    cot: Annotated[Path | None, typer.Option(help="The same of the task that ends in _cot.")] = None,
    model: Annotated[
        str | None, typer.Option(help="The model, to choose by likelihood and to count tokens.", show_default=False)
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, help="Samples of each question to look at.")] = None,
    out: OutFlag = Path("runs/analysis"),
    as_json: JsonFlag = False,
) -> None:
    """What can be had with nothing trained: votes, chains of thought, the likeliest sample; each with its tokens.

    Example: `closedbook analyze baselines runs/sample-base --greedy runs/eval-base --cot runs/eval-base-cot --model
    smollm2`. Likelihoods are kept in the folder of the analysis, so that a second call computes none.
    """
    from closedbook.harness.small_model import model_path
    from closedbook.harness.study.analyses import answers_beside, read_sample_runs
    from closedbook.harness.study.baselines import baselines, cost_of
    from closedbook.harness.study.inputs import model_input
    from closedbook.harness.study.scores import scores_of

    (run,) = read_sample_runs([samples], n)
    told = answers_beside(greedy, run)
    thought = answers_beside(cot, run, cot=True) if cot else None
    scores = cost = None
    if model:
        path = model_path(model)
        scores = scores_of(run, {id: answered.question for id, answered in told.items()}, path, out)
        cost = cost_of(path, bool(run.head.settings["chat"]))
    folders = [samples, greedy, *([cot] if cot else [])]
    models = [model_input(model, str(run.head.settings["model"]))] if model else []
    _show(context, baselines(run, told, thought, scores, cost), folders, out, as_json, models=models)


def _answers(folders: Sequence[Path], task: str | None, metric: str) -> list[Run]:
    """The answers of evaluations that were graded in one way, to one task or to all.

    Raises:
        RequestError: They were not, or one has no answers to that task.
    """
    from closedbook.harness.compare import read_run, require_alike
    from closedbook.harness.errors import RequestError

    runs = [read_run(folder, metric) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if task is not None and task not in run:
            raise RequestError(f"{folder} holds no answers to {task!r}; it has {', '.join(run)}")
    require_alike(folders, metric)
    return runs if task is None else [{task: run[task]} for run in runs]


def _named_folder(text: str) -> tuple[str, Path]:
    from closedbook.harness.errors import RequestError

    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise RequestError(f"{text!r} is no NAME=FOLDER; give the run's name and its folder")
    return name, Path(folder)


def _trained_on(folder: Path) -> int | None:
    """How many questions an evaluated checkpoint was trained on; None where that is not known here."""
    from closedbook.harness.errors import ClosedbookError
    from closedbook.harness.provenance import read_provenance

    try:
        model = json.loads((folder / "run.json").read_text(encoding="utf-8"))["model"]
        provenance = read_provenance(str(model))
    except (OSError, ValueError, KeyError, TypeError, ClosedbookError):
        return None
    return len(provenance.train_ids) if provenance else None


def _show(
    context: typer.Context,
    analysis: Analysis,
    folders: Sequence[Path],
    out: Path,
    as_json: bool,
    shown: int | None = None,
    models: Sequence[Input] = (),
) -> None:
    """Write an analysis with the folders and models that it was made from, and print its table, or its first rows."""
    from closedbook.harness.study.inputs import command_line, inputs
    from closedbook.harness.study.tables import plain_rows, write

    files = write(analysis, out, command_line(context.meta[WORDS]), [*inputs(folders), *models])
    if as_json:
        print_json({"name": analysis.name, "rows": plain_rows(analysis), "files": files, **analysis.made_from})
    else:
        print_table(f"{analysis.title}; in per cent", analysis.columns, analysis.rows[:shown])
    people.print(f"written: {', '.join(map(str, files))}", highlight=False, markup=False, soft_wrap=True)
