"""The command line, `closedbook`. A thin shell: every command reads its request, calls one function, prints the result.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong. With `--json` standard output holds JSON and nothing
else; what is meant for people goes to standard error. Heavy imports happen inside the commands, so `--help` is quick.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, is_dataclass
from functools import cache, partial, wraps
from importlib.metadata import entry_points
from inspect import Signature, signature
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from closedbook.harness.errors import ClosedbookError, RequestError, WorkError, one_line
from closedbook.harness.statistics import Estimate, number

if TYPE_CHECKING:
    from closedbook.harness.cluster import Cluster
    from closedbook.harness.compare import Run
    from closedbook.harness.dedup import Decider
    from closedbook.harness.evaluate import Evaluation
    from closedbook.harness.fields import FieldRow
    from closedbook.harness.judge import Judge, JudgeSettings, Tally, Triple
    from closedbook.harness.judge.asker import Spending
    from closedbook.harness.judge.cascade import Plan
    from closedbook.harness.manifests import Manifest

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Measure what a language model can recall without looking anything up.\n\n"
    "Start with `closedbook demo`, then `closedbook eval MODEL`. Plain lm-eval works too: "
    "`lm_eval --model hf --model_args pretrained=MODEL --tasks popqa_dedup --apply_chat_template`.\n\n"
    "Exit codes: 0 done, 1 the work failed (what was done is kept), 2 the request was wrong.",
)
data_app = typer.Typer(no_args_is_help=True, help="The benchmarks' sources: the hub, or a mirror in CLOSEDBOOK_DATA.")
splits_app = typer.Typer(no_args_is_help=True, help="Train, validation and test, deduplicated: the manifests.")
tasks_app = typer.Typer(no_args_is_help=True, help="The lm-eval tasks.")
dedup_app = typer.Typer(no_args_is_help=True, help="Deduplication at the level of facts.")
judge_app = typer.Typer(no_args_is_help=True, help="Grading answers.")
benchmarks_app = typer.Typer(no_args_is_help=True, help="Benchmarks of your own, in the folder CLOSEDBOOK_BENCHMARKS.")
for name, sub in (
    ("data", data_app), ("splits", splits_app), ("tasks", tasks_app), ("dedup", dedup_app), ("judge", judge_app),
    ("benchmarks", benchmarks_app),
):  # fmt: skip
    app.add_typer(sub, name=name)

people = Console(stderr=True)
EXTRAS = dict.fromkeys(("torch", "transformers", "gguf", "accelerate"), "eval")
EXTRAS |= {"trl": "train", "peft": "train", "ray": "ray"}
SHOWN = 20  # lines of a list on the screen; --json has all

Command = Callable[..., None]

JsonFlag = Annotated[bool, typer.Option("--json", help="Write JSON, and nothing else, to standard output.")]
JudgeSetFlag = Annotated[
    list[str] | None,
    typer.Option(
        help="Any other setting, NAME=VALUE, as often as needed: prompt=simpleqa, without=contains,name, "
        "concurrency=64, requests_per_minute=500, max_tokens=512, price_in=0.15, price_out=0.6, cache=off, ...; "
        "`closedbook judge settings` lists them.",
        show_default=False,
    ),
]
BudgetFlag = Annotated[
    float | None, typer.Option(help="Stop judging after so many dollars; needs price_in, price_out.")
]
MaxFailuresFlag = Annotated[
    float | None, typer.Option(help="Share of answers that may stay ungraded before the command exits 1; else 0.01.")
]
EngineFlag = Annotated[str, typer.Option(help="here, or ray: on the workers of a Ray cluster.")]
AddressFlag = Annotated[
    str | None,
    typer.Option(
        help="Of a Ray cluster, such as 10.0.0.1:6379, with --engine ray; else the one that this machine is part of.",
        show_default=False,
    ),
]
WorkersFlag = Annotated[
    int | None,
    typer.Option(
        min=1, help="On a Ray cluster; else as many as there is room for, also on nodes that join.", show_default=False
    ),
]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Print how many calls it would take, and end.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="nq, triviaqa, popqa, simpleqa, worldfacts or one of your own; all of them unless named.",
        show_default=False,
    ),
]


def print_json(value: object) -> None:
    """JSON to standard output; dataclasses become mappings."""

    def plain(thing: Any) -> Any:
        if is_dataclass(thing) and not isinstance(thing, type):
            return asdict(thing)
        return str(thing)

    sys.stdout.write(json.dumps(value, indent=2, default=plain, allow_nan=False) + "\n")
    sys.stdout.flush()


def cluster_of(engine: str, here: Sequence[str], address: str | None, workers: int | None) -> Cluster | None:
    """The cluster that flags name; None for this machine.

    Args:
        engine: What --engine says.
        here: What else it may say.
        address: What --address says.
        workers: What --workers says.

    Raises:
        RequestError: There is no such engine, or a cluster is described and not asked for.
    """
    if engine not in (*here, "ray"):
        raise RequestError(f"--engine is {', '.join(here)} or ray, not {engine!r}")
    if engine != "ray":
        if address is not None or workers is not None:
            raise RequestError("--address and --workers go with --engine ray")
        return None
    from closedbook.harness.cluster import Cluster

    return Cluster(address or "auto", workers)


def _chosen(names: list[str] | None) -> list[str]:
    from closedbook.harness.sources import benchmark, benchmarks

    return [benchmark(name).name for name in dict.fromkeys(names)] if names else list(benchmarks())


def with_flags(argument: str, make: Callable[..., object]) -> Callable[[Command], Command]:
    """Has a command take the parameters of `make` as flags in the place of an argument, which `make` makes of them."""
    flags = signature(make).parameters

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**stated: Any) -> None:
            made = make(**{flag: stated.pop(flag) for flag in flags})
            command(**stated, **{argument: made})

        own = signature(command).parameters
        taken = [p for name in own for p in (flags.values() if name == argument else [own[name]])]
        # typer reads texts in annotations, but not in a signature; each is read where it stands
        hints = _hints(make, flags) | _hints(command, [name for name in own if name != argument])
        run.__annotations__ = {p.name: hints[p.name] for p in taken}
        taken = [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in taken]
        run.__signature__ = Signature(taken)  # type: ignore[attr-defined]
        return run

    return decorate


def _hints(function: Callable[..., object], names: Iterable[str]) -> dict[str, Any]:
    """The types of some parameters, those of the others not looked up: they may be known to type checkers only."""
    stated = {name: function.__annotations__[name] for name in names}
    return get_type_hints(SimpleNamespace(__annotations__=stated), vars(sys.modules[function.__module__]), None, True)


def judge_flags(
    judge: Annotated[str | None, typer.Option(help="rules, openai or vllm; else CLOSEDBOOK_JUDGE, else rules.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's model; else CLOSEDBOOK_JUDGE_MODEL.")] = None,
    judge_url: Annotated[str | None, typer.Option(help="The judge's server; else CLOSEDBOOK_JUDGE_BASE_URL.")] = None,
    judge_set: JudgeSetFlag = None,
    budget: BudgetFlag = None,
    max_judge_failures: MaxFailuresFlag = None,
) -> JudgeSettings:
    """The judge that flags and environment name, rules where they name none."""
    from closedbook.harness.judge import JudgeSettings, judge_settings

    flags = {
        "kind": judge,
        "model": judge_model,
        "base_url": judge_url,
        "budget": budget,
        "max_failures": max_judge_failures,
    }
    stated: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    for setting in judge_set or ():
        name, equals, value = setting.partition("=")
        if not equals or name not in JudgeSettings.model_fields:
            known = ", ".join(name for name in JudgeSettings.model_fields if name != "api_key")
            raise RequestError(f"--judge-set: {name!r} is no setting; give NAME=VALUE with one of {known}")
        stated[name] = value
    return judge_settings({"judge": stated}, default="rules")


def _decider(
    decider: Annotated[
        str,
        typer.Option(
            help="rules, llm (a model decides all pairs), or cascade (rules what is certain, a model the rest)."
        ),
    ] = "rules",
    judge: Annotated[str | None, typer.Option(help="Of a deciding model: openai or vllm.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="Its name; else CLOSEDBOOK_JUDGE_MODEL.")] = None,
    judge_url: Annotated[str | None, typer.Option(help="Its server; else CLOSEDBOOK_JUDGE_BASE_URL.")] = None,
    judge_set: JudgeSetFlag = None,
    budget: BudgetFlag = None,
    max_failures: MaxFailuresFlag = None,
) -> Decider:
    """The rules, or the model that flags and environment name."""
    from closedbook.harness.dedup import rules
    from closedbook.harness.dedup.llm import LLMDecider

    if decider not in ("rules", "llm", "cascade"):
        raise RequestError(f"--decider is rules, llm or cascade, not {decider!r}")
    if decider == "rules":
        return rules
    settings = judge_flags(judge, judge_model, judge_url, judge_set, budget, max_failures)
    if settings.kind == "rules":
        raise RequestError(f"--decider {decider} needs a model: --judge openai or --judge vllm, with --judge-model")
    return LLMDecider(settings, rules_first=decider == "cascade")


def _print_plan(plan: Plan | None, as_json: bool) -> None:
    """What judging would take; nothing with rules alone."""
    if as_json:
        print_json(plan or {"calls": 0})
    elif plan is None:
        typer.echo("0 calls: rules grade all answers")
    else:
        cost = "unknown: set price_in and price_out" if plan.dollars is None else f"about ${plan.dollars:.2f}"
        first = " and one to try the judge" if plan.calls else ""
        typer.echo(
            f"{plan.calls} calls at most{first}, about {plan.prompt_tokens:,} prompt tokens, cost {cost}; of "
            f"{plan.answers} answers {plan.repeated} are repeated, {plan.cached} in the cache, {plan.by_rule} decided "
            "by rules"
        )


def _dry_run(judge: Judge, triples: Iterable[Triple], as_json: bool) -> None:
    from closedbook.harness.judge import LLMJudge

    _print_plan(judge.plan(triples) if isinstance(judge, LLMJudge) else None, as_json)


def _named(settings: JudgeSettings) -> str:
    """The judge, as titles name it."""
    parts = [settings.model or settings.kind, f"prompt {settings.prompt}" if settings.prompt != "binary" else ""]
    parts.append(f"without {', '.join(settings.without)}" if settings.without else "")
    return "; ".join(part for part in parts if part)


def end_if_too_many(failed: int, answers: int, said: object, settings: JudgeSettings, kept: object) -> None:
    """Exit code 1, after everything is saved and shown, where too many answers have no grade.

    Raises:
        WorkError: They are; the line begins with what is `said` of them.
    """
    if failed > settings.max_failures * answers:
        raise WorkError(f"{said}; what was graded is kept in {kept}; the same command again asks for the rest")
    if failed:
        people.print(f"note: {said}", highlight=False, markup=False, soft_wrap=True)


def _end_with(tally: Tally, settings: JudgeSettings, kept: object) -> None:
    end_if_too_many(tally.failed, tally.failed + tally.graded, tally, settings, kept)


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]], *, whole: bool = True) -> None:
    """A table for people; `whole` keeps words and figures in one piece, whatever the width of the screen."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    names = list(columns)
    for column in names:
        table.add_column(column, no_wrap=whole, overflow="fold")
    for row in rows:
        table.add_row(*(escape("-" if cell is None else _cell(cell, of)) for cell, of in zip(row, names, strict=True)))
    console = Console(width=Console(width=1000).measure(table).maximum if whole else None)
    console.print(title, style="bold", markup=False, highlight=False, soft_wrap=True)
    console.print(table)


def _cell(value: object, column: str) -> str:
    """An estimate takes two lines, the figure and its interval, so that a row fits a narrow screen."""
    if isinstance(value, float):
        return number(value, column)
    return str(value).replace(" [", "\n[") if isinstance(value, Estimate) else str(value)


@app.command("eval")
@with_flags("settings", judge_flags)
def eval_command(
    model: Annotated[
        str,
        typer.Argument(
            help="Model folder, hub id, or smollm2, gemma-270m, qwen-0.5b; with an API backend, its name on the server."
        ),
    ],
    tasks: Annotated[
        str, typer.Option(help="Tasks or groups, with commas; see `closedbook tasks list`.")
    ] = "worldfacts_dedup",
    backend: Annotated[str, typer.Option(help="lm-eval's backend: hf, vllm, local-chat-completions, ...")] = "hf",
    model_args: Annotated[str, typer.Option(help="Further backend arguments: name=value,name=value.")] = "",
    split: Annotated[
        str, typer.Option(help="test, validation, train, or dropped: the test questions that train states.")
    ] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Questions a task: a random sample of that size.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Batch size or auto; by default auto, on a CPU 32.")] = None,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help="Chat template; by default if there is one.")
    ] = None,
    *,
    settings: JudgeSettings,
    calibration: Annotated[
        Path | None, typer.Option(help="calibration.json of this judge: also report accuracy corrected for its errors.")
    ] = None,
    allow_contaminated: Annotated[
        bool, typer.Option("--allow-contaminated", help="Ask a checkpoint questions that it was trained on.")
    ] = False,
    dry_run: DryRunFlag = False,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; a rerun with the same one goes on from there. [runs/...]")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Score a checkpoint, with intervals.

    Examples: `closedbook eval my/checkpoint --tasks closedbook`, or with an LLM as judge
    `closedbook eval my/checkpoint --judge openai --judge-model NAME --judge-url http://127.0.0.1:8000/v1`.
    """
    from closedbook.harness.evaluate import evaluate, parse_model_args, plan_judging

    chosen = [task for task in tasks.split(",") if task]
    if dry_run:
        _print_plan(plan_judging(chosen, settings, limit, split), as_json)
        return
    done = evaluate(
        model,
        chosen,
        split=split,
        judge=settings,
        backend=backend,
        model_args=parse_model_args(model_args),
        limit=limit,
        batch_size=batch_size,
        chat=chat,
        out=out,
        calibration=calibration,
        allow_contaminated=allow_contaminated,
    )
    print_json(done.figures) if as_json else _print_evaluations([done], _named(settings))
    _end_with(done.tally, settings, done.folder)


def _print_evaluations(evaluations: list[Evaluation], judge: str) -> None:
    from closedbook.harness.metrics import METRICS

    every = [(task, figures) for evaluation in evaluations for task, figures in evaluation.figures.items()]
    shown = [name for name in (*METRICS, "corrected") if any(name in figures for _, figures in every)]
    rows = [[task, figures["exact_match"].n, *(figures.get(metric) for metric in shown)] for task, figures in every]
    print_table(f"In per cent, with 95 % intervals; judge: {judge}", ["task", "n", *shown], rows)
    for evaluation in evaluations:
        people.print(f"run folder: {evaluation.folder}", highlight=False, soft_wrap=True)


@app.command("compare")
def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; the others are compared with the first.")],
    metric: Annotated[str, typer.Option(help="What counts as right: judge_correct, contains, exact_match.")] = (
        "judge_correct"
    ),
    show: Annotated[int, typer.Option(min=0, help="Questions to show that changed, of each kind and run.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Compare evaluations of the same questions, question by question.

    Gained are the questions that only the later run answers rightly, lost those that only the first one does. `p` is
    an exact sign-flip test (McNemar's, with questions that share a gold answer as one), adjusted for all the
    differences in the table (Holm).

    Example: `closedbook compare runs/base runs/grpo --show 10`. Folders of `lm_eval --log_samples` will do as well.
    """
    from closedbook.harness.compare import compare, names_of, read_run, require_alike

    require_alike(runs, metric)
    read = dict(zip(names_of(runs), [read_run(run, metric) for run in runs], strict=True))
    print_json(compare(read)) if as_json else print_comparison(read, metric, show)


def print_comparison(runs: Mapping[str, Run], metric: str, show: int) -> None:
    """Runs beside the first one, and up to `show` questions of each kind that changed."""
    from closedbook.harness.compare import compare, flips

    rows = []
    for row in compare(runs):
        paired = row.against
        changes = [paired.difference, paired.gained, paired.lost, f"{row.p:.2g}"] if paired else [None] * 4
        rows.append([row.task, row.run, row.accuracy.n, row.accuracy, *changes])
    columns = ["task", "run", "n", "accuracy", "difference", "gained", "lost", "p"]
    print_table(f"{metric}, in per cent, with 95 % intervals; differences from the first run", columns, rows)
    (first, base), *others = runs.items()
    for name, run in others if show else ():
        for task, before in base.items():
            after = run[task]
            for title, ids in zip(("right only", "wrong only"), flips(before, after), strict=True):
                shown = [
                    [before[id].question, " / ".join(before[id].golds[:3]), before[id].answer, after[id].answer]
                    for id in ids[:show]
                ]
                said = f"{task}, {title} in {name}: {len(ids)}" + (f", of these {show}" if len(ids) > show else "")
                if shown:
                    print_table(said, ["question", "gold", first, name], shown, whole=False)
                else:
                    typer.echo(f"{said}\n")


@data_app.command("check")
def data_check(names: Names = None, as_json: JsonFlag = False) -> None:
    """Read every source and compare it with what the manifests pin.

    `of` is the size of the full data set; merged rows ask the same words as an earlier one; unusable rows lack a
    question, an answer or a subject.
    """
    from closedbook.harness.manifests import check_sources

    reports = [
        report
        for name in track(_chosen(names), "reading", console=people, transient=True)
        for report in check_sources(name)
    ]
    if as_json:
        print_json(reports)
    else:
        print_table(
            "Sources",
            ["benchmark", "split", "rows", "of", "questions", "merged", "unusable", "pinned"],
            [
                [
                    r.benchmark,
                    r.split,
                    r.rows,
                    r.full_rows,
                    r.questions,
                    r.merged,
                    r.unusable,
                    "no" if r.error else "yes",
                ]
                for r in reports
            ],
        )
    errors = [report.error for report in reports if report.error]
    for error in errors[1:]:
        _complain(error)
    if errors:
        raise RequestError(errors[0])


@data_app.command("list")
def data_list(as_json: JsonFlag = False) -> None:
    """Print the benchmarks with their source, licence and citation."""
    from closedbook.harness.sources import benchmarks

    if as_json:
        print_json(list(benchmarks().values()))
    else:
        for chosen in benchmarks().values():
            source = chosen.repo or ("ships with this package" if chosen.packaged else chosen.home / chosen.bundled)
            said = [f"{chosen.name}: {chosen.title}", f"source: {source}", f"licence: {chosen.licence}"]
            said += [chosen.homepage, *chosen.citation.strip().splitlines()]
            typer.echo("\n  ".join(filter(None, said)) + "\n")


@benchmarks_app.command("new")
def benchmarks_new(
    name: Annotated[str, typer.Argument(help="Its name: lower-case letters and digits.")],
    data: Annotated[Path, typer.Argument(help="A .jsonl or .parquet file, a question and its answers a row.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of your benchmarks; else CLOSEDBOOK_BENCHMARKS.", show_default=False)
    ] = None,
    question_column: Annotated[
        str | None,
        typer.Option(help="Else the first there is of question, prompt, instruction, problem, input, query."),
    ] = None,
    answer_column: Annotated[
        str | None, typer.Option(help="A text or a list of texts; else answer, answers, output, response, ...")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Its name for people.", show_default=False)] = None,
    licence: Annotated[str, typer.Option(help="Of the questions.")] = "not stated",
) -> None:
    """Make a benchmark of your own out of a file: its description, its two tasks and its rows, ready to use.

    Example: `closedbook benchmarks new gorlim questions.jsonl --out mine`. Of the questions two fifths become test, a
    tenth validation, the rest train; `mine/benchmarks.toml` says so and is yours to change. Nothing is overwritten.
    Prints what to run next: with `CLOSEDBOOK_BENCHMARKS=mine` every command knows `gorlim` and its task `gorlim_dedup`.
    """
    from closedbook.harness.own_benchmark import Request, new_benchmark
    from closedbook.harness.sources import own_home

    if (home := out or own_home()) is None:
        raise RequestError("--out: name the folder of your benchmarks, or set CLOSEDBOOK_BENCHMARKS")
    source = new_benchmark(Request(name, data, home.absolute(), question_column, answer_column, licence, title or name))
    counts = f"{source.rows:,} rows, {len(source.questions):,} questions"
    left = f"{source.merged:,} rows ask the words of an earlier one, {source.unusable:,} lack a question or an answer"
    people.print(f"{name}: {counts}; {left}", highlight=False, soft_wrap=True)
    typer.echo(f"export CLOSEDBOOK_BENCHMARKS={shlex.quote(str(home.absolute()))}")
    typer.echo(f"closedbook splits build {name}\nclosedbook eval smollm2 --tasks {name}_dedup")


@app.command("export")
def export_command(
    name: Annotated[
        str,
        typer.Argument(metavar="BENCHMARK", help="nq, triviaqa, popqa, simpleqa or worldfacts.", show_default=False),
    ],
    form: Annotated[
        str,
        typer.Option("--format", help="jsonl or parquet: one file; hf: a folder to load or upload as a data set."),
    ] = "jsonl",
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="test, validation, train, or dropped: the test questions that train states. With hf as often as "
            "needed. [default: test; with hf train, validation and test]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File, or folder with hf. [BENCHMARK-SPLIT.FORMAT or BENCHMARK-hf]")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of the manifests.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write questions and answers of our splits, to use them in another suite.

    Examples: `closedbook export popqa` writes `popqa-test.jsonl`; `closedbook export popqa --format hf` writes
    `popqa-hf/`, which `datasets.load_dataset("./popqa-hf")` loads. A row holds id, benchmark, question, answers (any of
    them is right) and, where the source has some, metadata. The text is read from the hub or from CLOSEDBOOK_DATA.

    The same request gives the same bytes. An earlier export is replaced, anything else that stands there is not.
    """
    from closedbook.harness.export import export

    with people.status("reading and writing"):
        done = export(name, form, split or (), out, folder)
    if as_json:
        print_json(done)
    else:
        counts = ", ".join(f"{count:,} {of}" for of, count in done.questions.items())
        typer.echo(f"{done.path}: {counts} questions of {done.benchmark}")


@splits_app.command("build")
@with_flags("decider", _decider)
def splits_build(
    names: Names = None,
    drop: Annotated[str, typer.Option(help="The side that a contained pair is dropped from: test or train.")] = "test",
    seed: Annotated[int | None, typer.Option(help="Seed of the random partition.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the manifests; by default where the tasks read them.")
    ] = None,
    ledger: Annotated[Path | None, typer.Option(help="Also write every compared pair here, as JSON Lines.")] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(help="Also compare questions of like meaning: minilm, or any sentence-transformers model."),
    ] = None,
    *,
    decider: Decider,
    as_json: JsonFlag = False,
) -> None:
    """Build the manifests from the sources; the same sources give the same bytes.

    When all benchmarks are built, overlaps between those of the package are written too. With a model as decider its
    replies are kept, so a build that was killed goes on from there.
    """
    from closedbook.harness import splits
    from closedbook.harness.dedup.decisions import to_json
    from closedbook.harness.dedup.embeddings import Embedder
    from closedbook.harness.files import written_aside
    from closedbook.harness.manifests import manifest_file, manifests_dir, write_manifest
    from closedbook.harness.sources import benchmark, benchmarks

    if drop not in ("test", "train"):
        raise RequestError(f"--drop is test or train, not {drop!r}")
    if embeddings == "":
        raise RequestError("--embeddings names no model; name minilm or another one, or leave it out")
    places = {(out or manifests_dir()) / splits.OVERLAPS, *(manifest_file(name, out) for name in benchmarks())}
    if ledger and ledger.resolve() in {place.resolve() for place in places}:
        raise RequestError(f"--ledger: {ledger} is the place of a manifest; choose another file")
    seed = splits.SEED if seed is None else seed
    embed = Embedder(embeddings) if embeddings else None
    built = {}
    with ExitStack() as stack:
        options: dict[str, Any] = {"decider": decider, "embed": embed}
        if ledger:
            lines = stack.enter_context(written_aside(ledger))
            options["record"] = lambda decision: lines.write(to_json(decision) + "\n")
        for name in track(_chosen(names), "building manifests", console=people, transient=True):
            built[name] = splits.build(name, drop=drop, seed=seed, **options)  # type: ignore[arg-type]  # checked above
            write_manifest(built[name], out)
    if not names:
        with people.status("looking for overlaps between benchmarks"):
            splits.write_overlaps(splits.find_overlaps(out, decider, embed=embed), out)
    for name in built:
        if not benchmark(name).packaged:
            said = (
                f"{name}: overlaps with other benchmarks are not looked for; `closedbook dedup run --help` tells how to"
            )
            people.print(said, highlight=False, markup=False, soft_wrap=True)
    if as_json:
        print_json(_summary(built))
    else:
        _print_manifests(built)
    _end_deciding(decider)


def _summary(manifests: Mapping[str, Manifest]) -> dict[str, dict[str, object]]:
    return {name: {"digest": m.digest, "variant": m.variant, "counts": m.counts} for name, m in manifests.items()}


def _print_manifests(manifests: Mapping[str, Manifest]) -> None:
    columns = ("train", "validation", "test", "dropped from test", "dropped from validation", "dropped from train")
    shown = [column for column in columns if any(column in m.counts for m in manifests.values())]
    print_table(
        "Questions",
        ["benchmark", "built from", *(column.replace("dropped from ", "dropped\n") for column in shown)],
        [[name, m.variant, *(f"{m.counts.get(column, 0):,}" for column in shown)] for name, m in manifests.items()],
    )
    for name, manifest in manifests.items():
        for split, wanted in manifest.wanted.items():
            drawn = manifest.counts.get(split, 0) + manifest.counts.get(f"dropped from {split}", 0)
            if drawn < wanted:
                people.print(f"{name}: {wanted:,} {split} questions were wanted, the source has {drawn:,}")


@splits_app.command("check")
def splits_check(
    names: Names = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of the manifests.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check the manifests: every question in one split, every id in the source.

    Where the rules decided, they decide again: that proves that nothing in test is stated by train. What another
    decider decided is not decided again.
    """
    from closedbook.harness import splits

    checked = {
        name: splits.check(name, folder)
        for name in track(_chosen(names), "checking manifests", console=people, transient=True)
    }
    if not names:
        splits.check_overlaps(folder)
    others = {name: manifest.decider for name, manifest in checked.items() if not splits.decided_by_rules(manifest)}
    if as_json:
        print_json(_summary(checked))
    else:
        _print_manifests(checked)
    for name, decider in others.items():
        people.print(f"{name}: decided by {decider}, not decided again", highlight=False, markup=False, soft_wrap=True)
    if not as_json:
        people.print("all that was checked holds" if others else "all promises hold", style="green")


@tasks_app.command("path")
def tasks_path() -> None:
    """Print the folder of the task files, for `lm_eval --include_path`."""
    from closedbook.harness.files import tasks_dir

    typer.echo(tasks_dir())


@tasks_app.command("list")
def tasks_list() -> None:
    """Print the names of all tasks and groups."""
    from closedbook.harness.evaluate import task_names

    typer.echo("\n".join(task_names()))


@dedup_app.command("score")
@with_flags("decider", _decider)
def dedup_score(
    pairs: Annotated[Path, typer.Argument(help="Labelled pairs, JSON Lines.")],
    *,
    decider: Decider,
    as_json: JsonFlag = False,
) -> None:
    """Precision, recall and F1 of a decider on labelled pairs.

    A line holds benchmark, test_question, test_golds, train_question, train_golds and label: same_fact counts as
    positive, different_fact and same_string_diff_entity as negative, unsure is ignored. A pair that the decider is
    unsure of counts as positive, as it does when questions are dropped.

    With a model: `closedbook dedup score pairs.jsonl --decider llm --judge openai --judge-model NAME --judge-url URL`.
    """
    from closedbook.harness.dedup.score import score_pairs

    figures = score_pairs(pairs, decider)
    if as_json:
        print_json(figures)
    else:
        names = ("precision", "recall", "f1")
        print_table(
            f"same_fact; decider: {_kind(decider)}",
            ["", *names],
            [[group, *(f"{entry[n]}\nn = {entry[n].n}" for n in names)] for group, entry in figures.items()],
        )
    _end_deciding(decider)


@dedup_app.command("explain")
def dedup_explain(
    question_id: Annotated[str, typer.Argument(help="Id of a question, as the manifests list it.")],
    ledger: Annotated[
        Path | None, typer.Option(help="Ledger of `splits build --ledger`; without one the rules decide again.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder of the manifests.", show_default=False)] = None,
    as_json: JsonFlag = False,
) -> None:
    """Why was this question dropped, or why was it not? Shows it beside all that it was compared with."""
    from closedbook.harness.dedup.ledger import explain
    from closedbook.harness.dedup.rules import REASONS

    with people.status("comparing"):
        found = explain(question_id, ledger, folder)
    if as_json:
        print_json({"row": found.row, "compared": [decision for decision, _ in found.compared]})
        return
    row = found.row
    place = (
        f"dropped from {row.dropped_from}: {row.rule}, {row.contained_in}" if row.dropped_from else f"in {row.split}"
    )
    typer.echo(f"{found.question.question}\n  = {' / '.join(found.question.answers[:5])}\n  {place}\n\nCompared with")
    for decision, other in found.compared:  # no table: an id that is broken over two lines cannot be copied
        typer.echo(f"\n{other.question}\n  = {' / '.join(other.answers[:3])}")
        typer.echo(f"  {decision.candidate}  {decision.verdict}, {decision.rule} ({decision.score:.2f})")
        if reason := decision.reasoning or REASONS.get(decision.rule):
            typer.echo(f"  {reason}")


@dedup_app.command("diff")
def dedup_diff(
    first: Annotated[Path, typer.Argument(help="A ledger, as `splits build --ledger` writes it.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    as_json: JsonFlag = False,
) -> None:
    """What would change with another decider? Compares two ledgers."""
    from closedbook.harness.dedup.ledger import diff

    found = diff(first, second)
    if as_json:
        print_json(found)
        return
    for title, decisions in (
        ("dropped by the first alone", found.only_first),
        ("by the second alone", found.only_second),
    ):
        print_table(
            f"{title}: {len(decisions)} questions" + (f", the first {SHOWN} of them" if len(decisions) > SHOWN else ""),
            ["question", "contained in", "rule", "score", "decider"],
            [[d.question, d.candidate, d.rule, f"{d.score:.2f}", d.decider] for d in decisions[:SHOWN]],
        )
    rows = [[change, count] for change, count in found.verdicts.items()]
    print_table(f"Verdicts that differ, of {found.pairs} pairs in both", ["first -> second", "pairs"], rows)


@dedup_app.command("contamination")
def dedup_contamination(
    folder: Annotated[Path | None, typer.Option(help="Folder of the manifests.", show_default=False)] = None,
    effect: Annotated[Path | None, typer.Option(help="What `dedup effect` wrote of a model: a section more.")] = None,
) -> None:
    """Print, as Markdown, how many test questions of each benchmark its training questions state, and why."""
    from closedbook.harness.dedup.contamination import contamination

    sys.stdout.write(contamination(folder, effect))


@dedup_app.command("effect")
@with_flags("settings", judge_flags)
def dedup_effect(
    model: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    names: Names = None,
    backend: Annotated[str, typer.Option(help="lm-eval's backend: hf, vllm, local-chat-completions, ...")] = "hf",
    model_args: Annotated[str, typer.Option(help="Further backend arguments: name=value,name=value.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Kept questions a benchmark; all unless given.")] = None,
    *,
    settings: JudgeSettings,
    out: Annotated[Path, typer.Option(help="Folder of the runs; a rerun with the same one goes on.")] = Path("effect"),
    as_json: JsonFlag = False,
) -> None:
    """What does deduplication do to a model's score? Asks what was dropped from test too, and compares.

    Example: `closedbook dedup effect my/checkpoint nq triviaqa --limit 1000`. A model that was trained on the training
    questions gains on the dropped ones; its score on the full test set is then too high by the last column.
    """
    from closedbook.harness.dedup.effect import measure
    from closedbook.harness.evaluate import parse_model_args

    found = measure(
        model, _chosen(names), settings, out, limit, backend=backend, model_args=parse_model_args(model_args)
    )
    if as_json:
        print_json(found)
    else:
        print_table(
            f"In per cent, with 95 % intervals; judge: {_named(settings)}",
            ["benchmark", "dropped", "n", "on the kept", "n", "on the dropped", "full - deduplicated"],
            [
                [
                    of.benchmark,
                    f"{100 * of.share:.1f}",
                    of.kept.n,
                    of.kept,
                    of.dropped.n,
                    of.dropped,
                    of.full_minus_deduplicated,
                ]
                for of in found
            ],
        )
    people.print(f"results: {out / 'effect.json'}", highlight=False, markup=False, soft_wrap=True)


def _kind(decider: Decider) -> str:
    """What `--decider` calls it."""
    from closedbook.harness.dedup.llm import LLMDecider

    if not isinstance(decider, LLMDecider):
        return "rules"
    return "cascade" if decider.rules_first else "llm"


def _end_deciding(decider: Decider) -> None:
    """Spending and failures of a model that decided; exit code 1 where too many pairs failed."""
    from closedbook.harness.dedup.llm import LLMDecider

    if not isinstance(decider, LLMDecider):
        return
    settings = decider.asker.settings
    _print_spent(decider.asker.spending, settings)
    if decider.failures:
        said = f"{decider.failures.total()} of {decider.decided} pairs could not be decided ({dict(decider.failures)})"
        if decider.failure_rate > settings.max_failures:
            raise WorkError(f"{said}; the rest is kept in the cache; the same command again asks for what is missing")
        people.print(f"note: {said}", highlight=False, markup=False, soft_wrap=True)


@dedup_app.command("run")
def dedup_run(
    train: Annotated[
        str, typer.Option(help="Your training set: a .jsonl, .csv or .parquet file, or a data set's id on the hub.")
    ],
    against: Annotated[
        list[str] | None,
        typer.Option(help="nq, triviaqa, popqa, simpleqa or worldfacts, as often as needed; all unless named."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which of our questions: test, validation or both.")] = "test",
    question_column: Annotated[
        str | None,
        typer.Option(help="Else the first there is of question, prompt, instruction, problem, input, query."),
    ] = None,
    answer_column: Annotated[
        str | None,
        typer.Option(help="A text or a list of texts; else answer, answers, output, response, ..., or none."),
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Else rows are numbered from 1.")] = None,
    train_config: Annotated[str | None, typer.Option(help="Configuration of a data set on the hub.")] = None,
    train_split: Annotated[str, typer.Option(help="Split of a data set on the hub.")] = "train",
    out: Annotated[Path | None, typer.Option(help="Folder for the results; dedup-NAME unless named.")] = None,
    fail_on_match: Annotated[bool, typer.Option("--fail-on-match", help="Exit with 1 if a row matches.")] = False,
    engine: EngineFlag = "here",
    address: AddressFlag = None,
    workers: WorkersFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Which rows of your training set state a fact that our test asks for? Writes your rows without them.

    Example: `closedbook dedup run --train my_sft.jsonl --against popqa --against nq` writes to `dedup-my_sft/`
    `report.json` (counts by benchmark and rule), `matches.jsonl` (your row and the id of our question, a line a match)
    and `filtered.jsonl` (your other rows, as they were). A row matches if it asks for the same fact in any words, in
    reverse too, and its answer agrees. One without answers is compared by words alone and is UNSURE at most; unsure
    rows are taken out too. `--train owner/name --train-split train` reads the hub. Killed? The same command goes on.

    With `--engine ray` the rows are compared on the processors of a Ray cluster (`ray start --head` here, `ray start
    --address=HEAD:6379` on other machines). The nodes need closedbook and nothing else: this machine reads the file and
    writes the results, which are the same, byte for byte.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from closedbook.harness.dedup.own_cluster import compare_on
    from closedbook.harness.dedup.own_data import Request, find_matches
    from closedbook.harness.dedup.own_workers import compare

    cluster = cluster_of(engine, ["here"], address, workers)
    request = Request(
        train,
        tuple(against or ("all",)),
        split,
        question_column,
        answer_column,
        id_column,
        train_config,
        train_split,
        out,
    )
    shown = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        with Progress(*shown, console=people, transient=True, disable=not people.is_terminal) as bar:
            task = bar.add_task("reading rows", total=None)
            done = find_matches(
                request,
                lambda rows, of: bar.update(task, description="comparing rows", completed=rows, total=of),
                partial(compare_on, cluster) if cluster else compare,
            )
    except KeyboardInterrupt:
        raise WorkError(f"interrupted; the same command goes on from what is kept in {request.folder}") from None
    if as_json:
        print_json(done.report)
    else:
        _print_matches(done.report)
    people.print(f"results: {done.folder}", highlight=False, markup=False, soft_wrap=True)
    if fail_on_match and done.report["contained"]["rows"]:
        raise typer.Exit(1)


def _print_matches(report: Mapping[str, Any]) -> None:
    rows = report["rows"]
    noted = {f"skipped, {reason}": count for reason, count in rows["skipped"].items()}
    noted |= {name.replace("_", " "): rows[name] for name in ("without_answers", "cut", "duplicate_ids")}
    notes = "".join(f"; {name}: {count:,}" for name, count in noted.items() if count)
    columns = ", ".join(f"{name} {column!r}" for name, column in report["train"]["columns"].items() if column)
    unsure = report["by_verdict"].get("unsure", {}).get("rows", 0)
    taken = f"taken out: {report['contained']['rows']:,}, of these unsure: {unsure:,}"
    print_table(
        f"{rows['read']:,} rows read{notes}\nColumns: {columns}\nRows {taken}",
        ["", "your rows", "our questions", "of"],
        [
            [name, f"{of['rows']:,}", f"{of['questions']:,}", f"{of['asked']:,}" if "asked" in of else None]
            for name, of in {"all": report["contained"], **report["by_benchmark"]}.items()
        ],
    )
    if report["by_rule"]:
        print_table(
            "By rule",
            ["rule", "your rows", "our questions"],
            [[rule, f"{of['rows']:,}", f"{of['questions']:,}"] for rule, of in report["by_rule"].items()],
        )


@judge_app.command("grade")
@with_flags("settings", judge_flags)
def judge_grade(
    answers: Annotated[Path, typer.Argument(help="JSON Lines with question, golds and answer.")],
    out: Annotated[Path | None, typer.Option(help="Graded lines; by default beside the input, *.graded.jsonl.")] = None,
    *,
    settings: JudgeSettings,
    engine: EngineFlag = "here",
    address: AddressFlag = None,
    workers: WorkersFlag = None,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Grade answers: each line is written again with its grade, or with the reason why the judge failed.

    A line is like `{"question": "Capital of France?", "golds": ["Paris"], "answer": "It is Paris"}`; it is written
    again with `grade` and `decided_by`, a rule or the model, or with `judge_failure` and `detail`. What a judge model
    replied is kept; the same command again asks for what is missing.

    With `--engine ray` the judge is asked from the workers of a Ray cluster (`ray start --head` here, `ray start
    --address=HEAD:6379` on other machines), one a node with `--judge openai`, one a GPU with `--judge vllm`. The nodes
    need closedbook, for vllm also the model, and the same way to the judge's server; the key goes to them from here,
    and into no log. Rules, replies, money and rates are kept here: `concurrency` counts over all workers.
    """
    from closedbook.harness.judge import make_judge
    from closedbook.harness.judge.cluster_model import cluster_judge
    from closedbook.harness.judge.grading import grade_file, read_rows

    cluster = cluster_of(engine, ["here"], address, workers)
    if dry_run:
        _dry_run(make_judge(settings), (triple for _, triple in read_rows(answers)), as_json)
        return
    out = out or answers.parent / f"{answers.stem}.graded.jsonl"
    with cluster_judge(settings, cluster) if cluster else nullcontext(make_judge(settings)) as grader:
        figures, tally = grade_file(answers, out, grader)
    if as_json:
        print_json({"overall": figures})
    else:
        print_table(
            f"Grades; judge: {_named(settings)}",
            ["", "per cent [95 %]", "n"],
            [[name, str(figure), figure.n] for name, figure in figures.items()],
        )
        people.print(f"graded lines: {out}", highlight=False)
    print_spending(grader)
    _end_with(tally, settings, out)


@judge_app.command("calibrate")
@with_flags("settings", judge_flags)
def judge_calibrate(
    labels: Annotated[
        Path,
        typer.Argument(
            help="JSON Lines or parquet: question, golds (a list), answer, correct (true or false: what people said), "
            "and system, where it is known."
        ),
    ],
    system: Annotated[
        list[str] | None,
        typer.Option(help="Take the answers of this system only; may be repeated.", show_default=False),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take so many, spread evenly over the file.")] = None,
    out: Annotated[Path, typer.Option(help="Where the calibration goes.")] = Path("calibration.json"),
    *,
    settings: JudgeSettings,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare a judge with people: accuracy, false positives, false negatives and kappa, with intervals.

    Example: `closedbook judge calibrate labels.parquet --judge openai --judge-model NAME --judge-url URL`. Then
    `closedbook eval MODEL --calibration calibration.json` reports accuracy corrected for the judge's errors.
    """
    from closedbook.harness.judge import make_judge
    from closedbook.harness.judge.calibration import calibrate, chosen_labels, write_calibration

    if out.resolve() == labels.resolve():
        raise RequestError(f"{out} holds the labels; name another file for the calibration")
    grader = make_judge(settings)
    if dry_run:
        _dry_run(grader, (label.triple for label in chosen_labels(labels, system or (), limit)), as_json)
        return
    calibration = calibrate(labels, grader, system or (), limit)
    write_calibration(calibration, out)
    if as_json:
        print_json(calibration.figures())
    else:
        names = ("accuracy", "fpr", "fnr", "kappa")
        print_table(
            f"In per cent, with 95 % intervals, against people; judge: {_named(settings)}",
            ["", "n", *names],
            [
                [group, entry["accuracy"].n, *(entry[n] for n in names)]
                for group, entry in calibration.figures().items()
            ],
        )
    people.print(f"calibration: {out}", highlight=False)
    print_spending(grader)
    _end_with(calibration.tally, settings, out)


@judge_app.command("attack")
@with_flags("settings", judge_flags)
def judge_attack(
    *,
    settings: JudgeSettings,
    show: Annotated[bool, typer.Option("--show", help="Also print the answers that got through.")] = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Try to fool a judge: the share of worthless answers that it calls right, by family of trick.

    The answers ship with closedbook; all of them are wrong. A judge that lets some through can be gamed by a model that
    is trained on its verdicts.
    """
    from closedbook.harness.judge import make_judge
    from closedbook.harness.judge.attack import attack, attacks

    grader = make_judge(settings)
    if dry_run:
        _dry_run(grader, (tried.triple for tried in attacks()), as_json)
        return
    report = attack(grader)
    if as_json:
        print_json(report.figures)
    else:
        print_table(
            f"Wrong answers called right, in per cent, with 95 % intervals; judge: {_named(settings)}",
            ["family", "n", "fpr"],
            [[family, entry["fpr"].n, entry["fpr"]] for family, entry in report.figures.items()],
        )
    if show:
        for passed in report.passed:
            people.print(f"{passed.family}: {passed.triple.answer!r}", highlight=False, markup=False, soft_wrap=True)
    print_spending(grader)
    _end_with(report.tally, settings, "the cache")


@judge_app.command("settings")
def judge_settings_command(as_json: JsonFlag = False) -> None:
    """Print every setting of a judge: what it is for, its default, and its variable.

    On the command line: `--judge-set NAME=VALUE`.
    """
    from closedbook.harness.fields import field_rows
    from closedbook.harness.judge.settings import VARIABLES, JudgeSettings

    rows = field_rows(JudgeSettings)
    if as_json:
        defaults = {name: field.get_default() for name, field in JudgeSettings.model_fields.items()}
        print_json(
            {
                row.name: {
                    "values": row.values,
                    "default": defaults[row.name],
                    "variable": VARIABLES[row.name],
                    "meaning": row.meaning,
                }
                for row in rows
            }
        )
    else:
        print_fields(rows, VARIABLES.__getitem__)


def print_fields(rows: Iterable[FieldRow], last: Callable[[str], str]) -> None:
    """Fields for people, three lines each; `last` makes the last one of a field's name."""
    for row in rows:
        default = "" if row.default in ("", "null", '""', "[]") else f" [default: {row.default.strip(chr(34))}]"
        typer.echo(f"{row.name}{default}\n  {row.meaning}\n  {row.values}; {last(row.name)}")


def print_spending(judge: Judge) -> None:
    """Calls, tokens and money, where there were any."""
    from closedbook.harness.judge import LLMJudge

    if isinstance(judge, LLMJudge):
        _print_spent(judge.spending, judge.settings)


def _print_spent(spent: Spending, settings: JudgeSettings) -> None:
    money = f", ${spent.dollars:.4f}" if settings.priced else ""
    people.print(
        f"model: {spent.calls} calls, {spent.prompt_tokens:,} + {spent.completion_tokens:,} tokens{money}",
        highlight=False,
    )


def _complain(message: str) -> None:
    people.print(f"closedbook: {message}", style="red", highlight=False, markup=False, soft_wrap=True)


@cache
def program() -> typer.Typer:
    """The app with the commands that other packages bring, training among them: the harness imports none by name."""
    for found in entry_points(group="closedbook.commands"):
        command = found.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=found.name)
        else:
            app.command(found.name)(command)
    return app


def main() -> None:
    """Entry point: errors that a person can act on become one line and an exit code."""
    try:
        program()()
    except ClosedbookError as error:
        _complain(str(error))
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        _complain(f"cannot go on: {one_line(error)}; is the disk, or what receives the output, full or gone?")
        raise SystemExit(WorkError.exit_code) from None
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(str(error.name))
        if extra is None:
            raise
        _complain(f"{error.name} is not installed; pip install 'closedbook[{extra}]'")
        raise SystemExit(RequestError.exit_code) from None


if __name__ == "__main__":
    main()
