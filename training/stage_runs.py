"""Running the stages of a graph, and removing what they made.

What surprises: a stage that fails ends none that does not need it, as with `make -k`; an interrupt ends all at once.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Iterable

from closedbook.harness.errors import ClosedbookError, RequestError, WorkError, one_line
from closedbook.harness.files import alone
from closedbook.training.child import call
from closedbook.training.stages import Graph

SAID = 12  # last lines of a command that failed


def forget(graph: Graph, names: Iterable[str]) -> None:
    """Remove what stages and all that build on them have made; refused (RequestError) while a run writes here."""
    gone = set(names)
    for stage in graph.stages.values():
        if gone & set(stage.after):
            gone.add(stage.name)
    with alone(graph.out):
        for name in [name for name in reversed(graph.stages) if name in gone]:
            if graph.file(name, "json").exists():
                graph.note(name, "failed", digest="")  # so that what is half removed is met by no run
            for path in (*graph.stages[name].makes, graph.file(name, "log"), graph.file(name, "json")):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def run(graph: Graph, names: Iterable[str], say: Callable[[str], None]) -> None:
    """Run those that are not done, in order; `say` is told what begins. Those that need a failed one are skipped.

    Raises:
        RequestError: One ran with other settings or needs a stage that is not done; or another run writes here.
        WorkError: Commands failed, and all that do not need them are done; or the run was interrupted.
    """
    wanted = set(names)
    todo = [name for name in graph.stages if name in wanted and not graph.done(name)]
    if changed := [name for name in todo if graph.status(name).state == "changed"]:
        again = f"run it again with --from {changed[0]}, which removes what it made, or choose another --out"
        raise RequestError(f"stage {changed[0]} ran with other settings; {again}")
    for name in todo:
        if missing := [before for before in graph.stages[name].after if before not in todo and not graph.done(before)]:
            raise RequestError(f"stage {name} needs {missing[0]}, which is not done; run that first")
    failed: dict[str, str] = {}
    skipped = 0
    with alone(graph.out) as lock:
        for name in graph.stages:
            if graph.status(name).state == "running":  # none is: it was killed
                graph.note(name, "failed")
        for number, name in enumerate(todo, 1):
            stage = graph.stages[name]
            about = f"{number} of {len(todo)}: {name}"
            if not all(map(graph.done, stage.after)):
                skipped += 1
                say(f"{about}, skipped: it needs one that failed")
                continue
            try:
                empty = stage.empty is not None and stage.empty()
            except ClosedbookError as error:  # what it would read is damaged
                say(about)
                failed[name] = _refused(graph, name, one_line(error))
                continue
            if empty:
                graph.note(name, "empty", seconds=0.0)
                say(f"{about}, nothing to do")
            else:
                say(f"{about}, {stage.work}" if stage.work else about)
                if why := _run(graph, name, lock):
                    failed[name] = why
    if failed:
        first = graph.file(next(iter(failed)), "log")
        said = first.read_text(encoding="utf-8", errors="replace").split("\n$ ")[-1].splitlines()[-SAID:]
        listed = ", ".join(f"{name} ({why})" for name, why in failed.items())
        raise WorkError(
            f"{len(failed)} of {len(todo)} stages failed: {listed}; {skipped} that need them were skipped. Mend what "
            f"{first} says, and the same command goes on; its last lines:\n" + "\n".join(said)
        )


def _refused(graph: Graph, name: str, why: str) -> str:
    """Note that a stage failed before its command could begin, and why."""
    graph.note(name, "failed")
    with graph.file(name, "log").open("a", encoding="utf-8") as log:
        log.write(f"\n$ closedbook {shlex.join(graph.stages[name].command)}\n{why}\n")
    return why


def _run(graph: Graph, name: str, lock: int) -> str:
    """Why a stage failed; nothing where it did not."""
    stage, log, began = graph.stages[name], graph.file(name, "log"), time.monotonic()
    graph.note(name, "begun")
    code = call(stage.command, log, stage.launch, lock)
    graph.note(name, "failed" if code else "done", seconds=round(time.monotonic() - began, 1))
    missing = [str(path) for path in stage.makes if not path.exists()]
    return f"exit code {code}" if code else f"made no {missing[0]}" if missing else ""
