"""A graph of commands, each of them one stage, and how far each is.

    OUT/stages/train/grpo.json   what was run, its digest and state; written when it begins and when it ends
    OUT/stages/train/grpo.log    what it said

What surprises: a stage is done as long as its command and all before it are the ones that ran. With other settings it,
and whatever builds on it, is refused until somebody asks for what it made to be removed, which may be hours of work.
Where OUT lies is no setting.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from closedbook.harness.errors import RequestError
from closedbook.harness.files import busy, write_text


class Amount(NamedTuple):
    """Work in numbers, for an estimate of its cost (cost.py).

    Attributes:
        samples: Texts that a model writes.
        trained: Texts that it is trained on.
        rounds: Rounds of rollouts, each of which waits for the one before.
        calls: To a judge, if it were asked about every text.
    """

    samples: float = 0
    trained: float = 0
    rounds: float = 0
    calls: float = 0


NO_WORK = Amount()


@dataclass(frozen=True, slots=True)
class Stage:
    """One command.

    Attributes:
        name: Unique, such as train/grpo.
        command: Arguments of `closedbook`.
        after: Names of the stages that must be done before.
        makes: Files and folders that it writes: it is done as long as all are there.
        reads: Those of its arguments that are files from elsewhere: what they hold is a setting, not where they lie.
        stated: What else decides what comes of it, such as a recipe behind a name.
        empty: Whether there is nothing to do and to make; asked when its turn comes.
        work: How much it does, in words.
        calls: Calls to a judge, at most.
        amount: How much it does, in numbers: at most, but of a training on one bucket the share that it has on average.
        launch: Arguments of `accelerate launch`, where several processes run it.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    makes: tuple[Path, ...] = ()
    reads: tuple[str, ...] = ()
    stated: str = ""
    empty: Callable[[], bool] | None = None
    work: str = ""
    calls: int = 0
    amount: Amount = NO_WORK
    launch: tuple[str, ...] = ()


class Status(NamedTuple):
    """How far a stage is: waiting, running, failed, done, empty or changed (docs/study.md); and the seconds it took."""

    state: str
    seconds: float | None = None


class Graph:
    """Stages, each listed after those that it needs, and the folder of all.

    Args:
        stages: All of them.
        out: The folder.
        anywhere: The same stages as another folder would have them; their words are the settings, where they are given.

    Raises:
        ValueError: Two have one name, or one comes before one that it needs.
    """

    def __init__(self, stages: Iterable[Stage], out: Path, anywhere: Iterable[Stage] | None = None) -> None:
        self.out = out
        self.stages: dict[str, Stage] = {}
        self.digests: dict[str, str] = {}
        listed = list(stages)
        for stage, same in zip(listed, listed if anywhere is None else anywhere, strict=True):
            if missing := [name for name in stage.after if name not in self.stages]:
                raise ValueError(f"stage {stage.name} needs {missing[0]}, which is not listed before it")
            if stage.name in self.stages:
                raise ValueError(f"two stages are called {stage.name}")
            words = [_digest(Path(word).read_bytes()) if word in same.reads else word for word in same.command]
            before = [self.digests[name] for name in sorted(stage.after)]
            self.stages[stage.name] = stage
            self.digests[stage.name] = _digest(json.dumps([words, same.stated, before]).encode())

    def file(self, name: str, ending: str) -> Path:
        """Where a stage's record or log lies."""
        return self.out / "stages" / f"{name}.{ending}"

    def status(self, name: str) -> Status:
        """How far a stage is."""
        try:
            record = json.loads(self.file(name, "json").read_text(encoding="utf-8"))
            state, seconds = record.get("state", "done"), record.get("seconds")
            if record["digest"] != self.digests[name]:
                state = "changed"
            elif state == "begun":
                state = "running" if busy(self.out) else "failed"
            elif state == "done" and not all(path.exists() for path in self.stages[name].makes):
                state = "failed"  # somebody may have removed it
            return Status(state, None if seconds is None else float(seconds))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Status("failed" if self.file(name, "log").exists() else "waiting")

    def note(self, name: str, state: str, **more: Any) -> None:
        """Keep how far a stage is: done, empty, begun or failed."""
        command = shlex.join(["closedbook", *self.stages[name].command])
        record = {"command": command, "digest": self.digests[name], "state": state, **more}
        write_text(self.file(name, "json"), json.dumps(record, indent=2) + "\n")

    def done(self, name: str) -> bool:
        """Whether a stage need not run."""
        return self.status(name).state in ("done", "empty")

    def named(self, wanted: Sequence[str]) -> list[str]:
        """The stages of these names, or with such a part: `train` is all of small/train/..., in order.

        Raises:
            RequestError: There is none.
        """
        found = {name: [stage for stage in self.stages if f"/{name.strip('/')}/" in f"/{stage}/"] for name in wanted}
        if nothing := [name for name, stages in found.items() if not stages]:
            raise RequestError(f"no stage {nothing[0]!r}; there are {', '.join(self.stages)}")
        return [stage for stage in self.stages if any(stage in stages for stages in found.values())]


def describe(graph: Graph, names: Iterable[str]) -> list[dict[str, Any]]:
    """A row for each stage, as the plan and the status show it; seconds are those of its last start."""
    return [
        {
            "stage": name,
            **graph.status(name)._asdict(),
            "work": graph.stages[name].work,
            "judge calls": graph.stages[name].calls,
            "after": ", ".join(graph.stages[name].after),
        }
        for name in names
    ]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
