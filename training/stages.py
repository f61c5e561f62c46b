"""A resumable graph of commands: each stage is one `closedbook` command, which runs when those that it needs are done.

    OUT/stages/train/grpo.json   what was run, its digest, how long it took; written when the stage is done
    OUT/stages/train/grpo.log    what it said

What surprises: a stage is done as long as its command and all before it are the ones that ran. With other settings it,
and whatever builds on it, is refused until somebody asks for what it made to be removed, which may be hours of work.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import alone, write_text
from closedbook.training.child import call

SAID = 12  # last lines of a command that failed


@dataclass(frozen=True, slots=True)
class Stage:
    """One command.

    Attributes:
        name: Unique, such as train/grpo.
        command: Arguments of `closedbook`.
        after: Names of the stages that must be done before.
        makes: Files and folders that it writes, which running it again removes first.
        stated: What else decides what comes of it, such as a recipe behind a name.
        work: How much it does, in words.
        calls: Calls to a judge, at most.
        launch: Arguments of `accelerate launch`, where several processes run it.
    """

    name: str
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    makes: tuple[Path, ...] = ()
    stated: str = ""
    work: str = ""
    calls: int = 0
    launch: tuple[str, ...] = ()


class Status(NamedTuple):
    """How far a stage is: done, changed (other settings ran), failed or waiting; and the seconds that it took."""

    state: str
    seconds: float | None = None


class Graph:
    """Stages, each listed after those that it needs, and the folder of all.

    Raises:
        ValueError: Two have one name, or one comes before one that it needs.
    """

    def __init__(self, stages: Iterable[Stage], out: Path) -> None:
        self.out = out
        self.stages: dict[str, Stage] = {}
        self._digests: dict[str, str] = {}
        for stage in stages:
            if missing := [name for name in stage.after if name not in self.stages]:
                raise ValueError(f"stage {stage.name} needs {missing[0]}, which is not listed before it")
            if stage.name in self.stages:
                raise ValueError(f"two stages are called {stage.name}")
            whole = json.dumps([stage.command, stage.stated, [self._digests[name] for name in sorted(stage.after)]])
            self.stages[stage.name] = stage
            self._digests[stage.name] = hashlib.sha256(whole.encode()).hexdigest()[:16]

    def file(self, name: str, ending: str) -> Path:
        """Where a stage's record or log lies."""
        return self.out / "stages" / f"{name}.{ending}"

    def status(self, name: str) -> Status:
        """How far a stage is."""
        try:
            record = json.loads(self.file(name, "json").read_text(encoding="utf-8"))
            same, makes = record["digest"] == self._digests[name], self.stages[name].makes
            whole = not makes or any(path.exists() for path in makes)  # somebody may have removed it
            return Status("changed" if not same else "done" if whole else "failed", float(record["seconds"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Status("failed" if self.file(name, "log").exists() else "waiting")

    def done(self, name: str) -> bool:
        """Whether a stage need not run."""
        return self.status(name).state == "done"

    def named(self, wanted: Sequence[str]) -> list[str]:
        """The stages of these names, or with such a part: `train` is all of small/train/..., in order.

        Raises:
            RequestError: There is none.
        """
        found = {name: [stage for stage in self.stages if f"/{name.strip('/')}/" in f"/{stage}/"] for name in wanted}
        if nothing := [name for name, stages in found.items() if not stages]:
            raise RequestError(f"no stage {nothing[0]!r}; there are {', '.join(self.stages)}")
        return [stage for stage in self.stages if any(stage in stages for stages in found.values())]

    def forget(self, names: Iterable[str]) -> None:
        """Remove what stages and all that build on them have made; refused (RequestError) while a run writes here."""
        gone = set(names)
        with alone(self.out):
            gone.update(stage.name for stage in self.stages.values() if stage.name in gone or gone & set(stage.after))
            for stage in reversed([stage for stage in self.stages.values() if stage.name in gone]):
                for path in (self.file(stage.name, "json"), *stage.makes, self.file(stage.name, "log")):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

    def run(self, names: Iterable[str], say: Callable[[str], None]) -> None:
        """Run those that are not done, in order; `say` is told what begins.

        Raises:
            RequestError: One ran with other settings or needs a stage that is not done; or another run writes here.
            WorkError: A command failed or was interrupted; those before it are done.
        """
        todo = [name for name in names if not self.done(name)]
        if changed := [name for name in todo if self.status(name).state == "changed"]:
            again = f"run it again with --from {changed[0]}, which removes what it made, or choose another --out"
            raise RequestError(f"stage {changed[0]} ran with other settings; {again}")
        with alone(self.out) as lock:
            for number, name in enumerate(todo, 1):
                stage = self.stages[name]
                if missing := [before for before in stage.after if not self.done(before)]:
                    raise RequestError(f"stage {name} needs {missing[0]}, which is not done; run that first")
                say(f"{number} of {len(todo)}: {name}{f', {stage.work}' if stage.work else ''}")
                self._run(stage, lock)

    def _run(self, stage: Stage, lock: int) -> None:
        log, began = self.file(stage.name, "log"), time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        if code := call(stage.command, log, stage.launch, lock):
            said = "\n".join(log.read_text(encoding="utf-8", errors="replace").split("\n$ ")[-1].splitlines()[-SAID:])
            raise WorkError(f"stage {stage.name} failed, exit code {code}; its last lines in {log}:\n{said}")
        done: dict[str, Any] = {
            "command": shlex.join(["closedbook", *stage.command]),
            "digest": self._digests[stage.name],
        }
        done["seconds"] = round(time.monotonic() - began, 1)
        write_text(self.file(stage.name, "json"), json.dumps(done, indent=2) + "\n")
