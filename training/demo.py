"""`closedbook demo`: the whole story on one small model: ask it, train it with GRPO, ask it again.

The questions are `worldfacts`, which ships with closedbook: trained on are its train questions, asked before and after
are its test questions, whose facts no train question states. How long it trains was fixed by time, and the other
settings are grpo_cpu's; the test questions had no say in any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from closedbook.harness.compare import Run, read_run
from closedbook.harness.evaluate import Evaluation, evaluate
from closedbook.training.recipe_fields import Recipe
from closedbook.training.recipes import judge_of, load_recipe
from closedbook.training.run import Trained, train

TASK = "worldfacts_dedup"
STEPS, QUICK_STEPS = 20, 2  # 800 rollouts, and enough to see that it works
QUICK_LIMIT = 40  # test questions of a quick look


@dataclass(frozen=True, slots=True)
class Story:
    """What happened.

    Attributes:
        before: The answers of the model as it was.
        after: Of the trained one, to the same questions.
        trained: The training run.
    """

    before: Run
    after: Run
    trained: Trained


def demo_recipe(out: Path, quick: bool) -> Recipe:
    """What the demo trains with."""
    steps = QUICK_STEPS if quick else STEPS
    return load_recipe("grpo_cpu", [f"max_steps={steps}", f"output_dir={out / 'grpo'}"])


def run_demo(recipe: Recipe, out: Path, limit: int | None, say: Callable[[str], None]) -> Story:
    """Ask, train, ask again; what is done already is not done again.

    Args:
        recipe: As `demo_recipe` gives it.
        out: Folder of the evaluations.
        limit: Test questions; None for all.
        say: Is told what comes next.

    Raises:
        WorkError: A part failed or was interrupted (Unfinished); the same call goes on from there.
    """

    def ask(model: str, name: str) -> Evaluation:
        return evaluate(model, [TASK], judge=judge_of(recipe), limit=limit, out=out / name)

    say("1 of 3: the model as it is is asked the test questions")
    before = ask(recipe.model, "before")
    say(f"2 of 3: it is trained with GRPO on other questions, {recipe.max_steps} steps")
    trained = train(recipe, resume=True)
    say("3 of 3: the trained model is asked the same test questions")
    after = ask(str(trained.folder), "after")
    return Story(read_run(before.folder), read_run(after.folder), trained)
