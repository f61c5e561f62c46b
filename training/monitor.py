"""What a run shows and writes while it trains: the log file, validation, the progress bar, a warning, a calm end.

The log file has one line a step and no clock in it but under `seconds`, so that the log of a resumed run equals that of
an undisturbed one. A first Ctrl-C or SIGTERM (as clusters send it before they take a machine) ends the run at the next
step that a run can go on from, with a checkpoint; a second one ends it at once.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from closedbook.harness.errors import RequestError
from closedbook.harness.files import write_text
from closedbook.training.plan import LOG_FILE
from closedbook.training.recipe_fields import Recipe
from closedbook.training.validation import ACCURACY, FAILED
from closedbook.training.watch import Step, suspicion, window_of

if TYPE_CHECKING:
    from tqdm import tqdm

    from closedbook.training.trainers import Checkpointed

SECONDS = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")  # TRL's names

COMMONEST = "answers/commonest"

Validate = Callable[[], Mapping[str, float]]


class Monitor(TrainerCallback):
    """Follows one run.

    Args:
        recipe: What is run.
        trainer: Who runs it.
        validate: Asks the model, as it is, the validation questions; figures by name, NaN where not known. None where
            there are no such questions: the last checkpoint then counts as the best.
        main: Whether this process writes and shows.
        progress: Show a bar.

    Attributes:
        stop: Why the run was asked to end early; None where it was not.
        begun: Whether a step was begun, so that all there was to load is loaded.
    """

    def __init__(
        self,
        recipe: Recipe,
        trainer: Checkpointed,
        validate: Validate | None,
        *,
        main: bool = True,
        progress: bool = True,
    ) -> None:
        self.recipe, self.trainer, self.validate = recipe, trainer, validate
        self.main, self.progress = main, progress and main
        self.stop: str | None = None
        self.begun = False
        self.accuracy: float | None = None
        self._steps: list[Step] = []
        self._window = 0
        self._warned = False
        self._bar: tqdm[Any] | None = None

    @property
    def log_file(self) -> Path:
        """Where the figures of every step go."""
        return self.recipe.folder / LOG_FILE

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take up the log where the checkpoint stands."""
        if self.validate is None:
            self.say("no validation questions: the last checkpoint counts as the best")
        self._window = window_of(state.max_steps // self.recipe.generation_steps)
        kept = [line for line in read_log(self.log_file) if line["step"] <= state.global_step]
        self._steps = [step for line in kept if (step := _watched(line))]
        self.accuracy = next((line[ACCURACY] for line in reversed(kept) if ACCURACY in line), None)
        if kept and "num_tokens" in kept[-1]:  # TRL's SFT and DPO would count from 0 again
            self.trainer._total_train_tokens = kept[-1]["num_tokens"]
        if self.main:
            write_text(self.log_file, "".join(json.dumps(line) + "\n" for line in kept))
        if self.progress:
            from tqdm import tqdm

            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.recipe.name, unit="step")

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Remember that it came to this."""
        self.begun = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Validate, and end where that was asked for and a run can go on from here."""
        step, every = state.global_step, self.recipe.validation.every
        last = step >= state.max_steps
        if step % self.recipe.generation_steps == 0 and self._anyone_stops():
            control.should_save = control.should_training_stop = True
        control.should_save |= last
        if self.validate and (last or (every and step % every == 0)):
            figures = self.validate()
            self.trainer.extra |= figures
            self.accuracy = _plain(figures[ACCURACY])
            if self.accuracy is None:
                self.say(f"step {step}: validation is not known, since the judge failed on {figures[FAILED]:.1%}")
            if self.accuracy is not None and (state.best_metric is None or self.accuracy > state.best_metric):
                state.best_metric, state.best_global_step = self.accuracy, step
            control.should_save = True

    def _anyone_stops(self) -> bool:
        """Whether any process was asked to end: all must end after the same step, or they wait for each other."""
        accelerator = self.trainer.accelerator
        asked = torch.tensor([self.stop is not None], device=accelerator.device)
        anyone = bool(accelerator.gather(asked).any())  # a signal that comes now counts at the next step, for all
        if anyone:
            self.stop = self.stop or f"{self.recipe.folder}: another process was asked to end; see its message"
        return anyone

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Write a step's figures, and look for signs of reward hacking."""
        logs: Mapping[str, float] = given["logs"]
        if not self.main or "loss" not in logs:  # the sums at the end of a run are no step's
            return
        line = log_line(state.global_step, logs) | self._commonest(logs)
        with self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._bar is not None:
            self._bar.set_postfix(_shown(line, self.accuracy), refresh=False)
            self._bar.update()
        if step := _watched(line):
            self._steps.append(step)
            self._look(state.global_step)

    def _commonest(self, logs: Mapping[str, float]) -> dict[str, str]:
        """Which answer the rollouts of this step gave most often."""
        figures = self.trainer.figures
        return {"answers/commonest_answer": figures.commonest_answer} if COMMONEST in logs and figures else {}

    def _look(self, step: int) -> None:
        if self.recipe.watch == "off" or (problem := suspicion(self._steps, self._window)) is None:
            return
        said = f"{self.recipe.folder}, step {step}: looks like reward hacking: {problem}"
        if self.recipe.watch == "stop":
            self.stop = self.stop or f"{said}; look at {self.log_file}, or go on with watch=warn"
        elif not self._warned:
            self._warned = True
            self.say(f"warning: {said}")

    def say(self, text: str) -> None:
        """A line for people, beside the bar."""
        if self.main:
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()

    @contextmanager
    def ends_calmly(self) -> Iterator[None]:
        """While it lasts, a first SIGINT or SIGTERM asks for an end, a second one interrupts."""

        def ask(number: int, frame: FrameType | None) -> None:
            if self.stop:
                raise KeyboardInterrupt
            self.stop = f"{self.recipe.folder}: ended by {signal.Signals(number).name}"
            self.say("ending after this step, with a checkpoint; once more ends at once, without one")

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.close()


def log_line(step: int, logs: Mapping[str, float]) -> dict[str, Any]:
    """A step's figures as the log file has them: unknown ones null, time apart from the rest."""
    figures = {name: _plain(value) for name, value in logs.items() if name not in SECONDS}
    seconds = {"seconds": round(logs["step_time"], 3)} if "step_time" in logs else {}
    return {"step": step} | figures | seconds


def _plain(value: float | None) -> float | None:
    """A number that JSON has."""
    return value if value is not None and math.isfinite(value) else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; none where there is none. A torn last line, of a run that was killed, is left out.

    Raises:
        RequestError: Another line is damaged.
    """
    texts = path.read_bytes().splitlines() if path.is_file() else []
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            lines.append(line | {"step": int(line["step"])})
        except (ValueError, KeyError, TypeError) as error:
            if number < len(texts):
                raise RequestError(f"{path}, line {number}: it is damaged; restore the file, or remove it") from error
    return lines


def _watched(line: Mapping[str, Any]) -> Step | None:
    """What `suspicion` looks at; None for a step without rollouts or without any reward."""
    names = ("reward", "answers/contains", "answers/exact_match", COMMONEST)
    values = [line[name] for name in names if line.get(name) is not None]
    return Step(*values) if len(values) == len(names) else None


def _shown(line: Mapping[str, Any], accuracy: float | None) -> dict[str, str]:
    """What the bar says besides the time left."""
    first = {"reward": line["reward"]} if line.get("reward") is not None else {"loss": line["loss"]}
    return {name: f"{value:.3f}" for name, value in {**first, "accuracy": accuracy}.items() if value is not None}
