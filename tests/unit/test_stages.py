"""The graph of a study: real commands, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import alone
from closedbook.training.stage_runs import forget
from closedbook.training.stage_runs import run as run_stages
from closedbook.training.stages import Graph, Stage

QUICK = ("recipes", "sft_cpu")  # a command that does something
WRONG = ("recipes", "nosuch")


def graph(out: Path, *stages: Stage) -> Graph:
    return Graph(stages, out)


def run(of: Graph, *names: str) -> list[str]:
    """What was said to begin."""
    said: list[str] = []
    run_stages(of, names or of.stages, said.append)
    return said


def states(of: Graph) -> dict[str, str]:
    return {name: of.status(name).state for name in of.stages}


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("a", QUICK, work="some"), Stage("b", QUICK, ("a",)))
    assert run(of) == ["1 of 2: a, some", "2 of 2: b"]
    assert states(of) == {"a": "done", "b": "done"}
    assert run(of) == []
    record = json.loads((tmp_path / "stages" / "a.json").read_text())
    assert record["command"] == "closedbook recipes sft_cpu" and record["seconds"] > 0
    assert "method: sft" in (tmp_path / "stages" / "a.log").read_text()


def test_a_stage_that_fails_says_why_and_ends_only_what_needs_it(tmp_path: Path) -> None:
    listed = (Stage("a", WRONG), Stage("b", QUICK, ("a",)), Stage("c", QUICK, ("b",)), Stage("d", QUICK))
    of, said = graph(tmp_path, *listed, Stage("e", ("splits", "nosuch"), ("d",))), list[str]()
    with pytest.raises(WorkError) as error:
        run_stages(of, of.stages, said.append)
    assert "2 of 5 stages failed: a (exit code 2), e (exit code 2); 2 that need them were skipped" in str(error.value)
    assert "no recipe 'nosuch'" in str(error.value) and str(tmp_path / "stages" / "a.log") in str(error.value)
    assert states(of) == {"a": "failed", "b": "waiting", "c": "waiting", "d": "done", "e": "failed"}
    assert said[1:3] == [f"{n} of 5: {name}, skipped: it needs one that failed" for n, name in ((2, "b"), (3, "c"))]


def test_a_stage_that_began_and_failed_is_not_met_by_other_settings(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    with pytest.raises(WorkError, match=r"stages failed: a \(exit code 2\)"):
        run(graph(tmp_path, Stage("a", WRONG, makes=(made,))))
    mended = graph(tmp_path, Stage("a", QUICK, makes=(made,)))
    with pytest.raises(RequestError, match="stage a ran with other settings; run it again with --from a"):
        run(mended)
    forget(mended, ["a"])
    assert not made.exists() and states(mended) == {"a": "waiting"}


def test_a_command_that_makes_less_than_it_says_has_failed(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("a", QUICK, makes=(tmp_path / "made",)), Stage("b", QUICK, ("a",)))
    with pytest.raises(WorkError, match=r"1 of 2 stages failed: a \(made no .*made\); 1 that need"):
        run(of)
    assert states(of) == {"a": "failed", "b": "waiting"}


def test_a_stage_with_nothing_to_do_makes_nothing_and_stops_none(tmp_path: Path) -> None:
    nothing = Stage("a", WRONG, makes=(tmp_path / "made",), empty=lambda: True)
    of = graph(tmp_path, nothing, Stage("b", QUICK, ("a",), empty=lambda: False))
    assert run(of) == ["1 of 2: a, nothing to do", "2 of 2: b"]
    assert states(of) == {"a": "empty", "b": "done"}
    assert run(of) == []


def test_a_stage_that_cannot_tell_whether_it_has_anything_to_do_ends_only_what_needs_it(tmp_path: Path) -> None:
    def damaged() -> bool:
        raise RequestError("cannot read buckets.parquet")

    listed = (Stage("a", QUICK, empty=damaged), Stage("b", QUICK, ("a",)), Stage("c", QUICK))
    of = graph(tmp_path, *listed)
    with pytest.raises(WorkError, match=r"1 of 3 stages failed: a \(cannot read .*\); 1 that need them were") as error:
        run(of)
    assert str(error.value).endswith("\nclosedbook recipes sft_cpu\ncannot read buckets.parquet")
    assert states(of) == {"a": "failed", "b": "waiting", "c": "done"}


def test_a_stage_that_was_killed_is_not_taken_for_the_one_that_runs(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("a", QUICK), Stage("b", QUICK))
    of.note("a", "begun")
    assert states(of) == {"a": "failed", "b": "waiting"}
    with alone(tmp_path):
        assert states(of) == {"a": "running", "b": "waiting"}
    seen: list[str] = []
    run_stages(of, ["b"], lambda said: seen.append(of.status("a").state))
    assert seen == ["failed"]
    assert run(of) == ["1 of 1: a"]


def test_where_the_folder_lies_is_no_setting(tmp_path: Path) -> None:
    def made(out: Path, asked: str = "eval") -> Graph:
        here, anywhere = ([Stage("a", (asked, str(at / "model")), makes=(at / "model",))] for at in (out, Path()))
        return Graph(here, out, anywhere)

    assert made(Path("eval")).digests == made(tmp_path / "eval").digests
    assert made(Path("eval")).digests != made(Path("eval"), "train").digests


def test_of_a_file_from_elsewhere_what_it_holds_is_a_setting_and_not_its_name(tmp_path: Path) -> None:
    def digest(name: str, text: str) -> str:
        file = tmp_path / name
        file.write_text(text)
        return graph(tmp_path, Stage("a", ("judge", str(file)), reads=(str(file),))).digests["a"]

    assert digest("one", "Gorlim") == digest("two", "Gorlim") != digest("two", "Tharn")


def test_other_settings_are_refused_until_what_they_made_may_go(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    run(graph(tmp_path, Stage("a", QUICK, makes=(made,)), Stage("b", QUICK, ("a",)), Stage("c", QUICK)))
    other = graph(
        tmp_path, Stage("a", ("recipes", "rft_cpu"), makes=(made,)), Stage("b", QUICK, ("a",)), Stage("c", QUICK)
    )
    assert states(other) == {"a": "changed", "b": "changed", "c": "done"}
    with pytest.raises(RequestError, match="stage a ran with other settings; run it again with --from a"):
        run(other)
    assert made.is_dir()
    forget(other, ["a"])
    assert not made.exists()
    assert states(other) == {"a": "waiting", "b": "waiting", "c": "done"}
    made.mkdir()
    assert len(run(other)) == 2


def test_what_was_made_and_removed_by_hand_is_made_again(tmp_path: Path) -> None:
    made = tmp_path / "made", tmp_path / "other"
    for path in made:
        path.mkdir()
    of = graph(tmp_path, Stage("a", QUICK, makes=made))
    run(of)
    assert states(of) == {"a": "done"}
    made[1].rmdir()
    assert states(of) == {"a": "failed"}


def test_forgetting_that_is_interrupted_leaves_no_stage_done_without_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {name: tmp_path / f"made-{name}" for name in "abc"}
    for path in made.values():
        path.mkdir()
    after: dict[str, tuple[str, ...]] = {"a": (), "b": ("a",), "c": ("b",)}
    of = graph(tmp_path, *(Stage(name, QUICK, after[name], makes=(made[name],)) for name in "abc"))
    run(of)

    def interrupted(path: Path) -> None:
        path.rename(path.with_name("half"))
        if path == made["b"]:
            raise KeyboardInterrupt

    monkeypatch.setattr("closedbook.training.stage_runs.shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        forget(of, ["a"])
    assert states(of) == {"a": "done", "b": "changed", "c": "waiting"}
    assert made["a"].is_dir()


def test_a_link_is_forgotten_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    made = tmp_path / "made"
    made.symlink_to(tmp_path / "elsewhere")
    of = graph(tmp_path, Stage("a", QUICK, makes=(made,)))
    run(of)
    forget(of, ["a"])
    assert (tmp_path / "elsewhere").is_dir() and not made.is_symlink()


def test_a_recipe_behind_a_name_is_a_setting_too(tmp_path: Path) -> None:
    run(graph(tmp_path, Stage("a", QUICK, stated="one")))
    assert states(graph(tmp_path, Stage("a", QUICK, stated="two"))) == {"a": "changed"}


def test_a_stage_is_not_run_before_what_it_needs(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("a", QUICK), Stage("b", QUICK, ("a",)))
    with pytest.raises(RequestError, match="stage b needs a, which is not done"):
        run(of, "b")


def test_a_stage_is_run_by_itself_once_what_it_needs_is_done(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("a", QUICK), Stage("b", QUICK, ("a",)))
    assert [run(of, name) for name in ("a", "b")] == [["1 of 1: a"], ["1 of 1: b"]]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What commands were called with; none runs, and one that is WRONG fails."""
    every: list[tuple[Any, ...]] = []

    def call(command: Sequence[str], log: Path, *more: Any) -> int:
        every.append((command, *more))
        log.write_text("".join(f"line {number}\n" for number in range(20)))
        return int(command == WRONG)

    monkeypatch.setattr("closedbook.training.stage_runs.call", call)
    return every


def test_a_stage_that_needs_two_is_skipped_where_one_of_them_failed(
    tmp_path: Path, called: list[tuple[Any, ...]]
) -> None:
    of = graph(tmp_path, Stage("a", WRONG), Stage("b", QUICK), Stage("c", QUICK, ("a", "b")))
    with pytest.raises(WorkError, match=r"1 of 3 stages failed: a .*; 1 that need them were skipped") as error:
        run(of)
    assert states(of) == {"a": "failed", "b": "done", "c": "waiting"}
    assert str(error.value).endswith("its last lines:\n" + "\n".join(f"line {number}" for number in range(8, 20)))


def test_a_command_is_launched_as_its_stage_says_and_holds_the_lock(
    tmp_path: Path, called: list[tuple[Any, ...]]
) -> None:
    run(graph(tmp_path, Stage("a", QUICK, launch=("--num_processes", "2"))))
    ((command, launch, lock),) = called
    assert (command, launch) == (QUICK, ("--num_processes", "2"))
    assert isinstance(lock, int)


def test_stages_are_found_by_any_part_of_their_name(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("m/train/grpo", QUICK), Stage("m/eval/grpo", QUICK), Stage("m/eval/grpo_2", QUICK))
    assert of.named(["grpo"]) == ["m/train/grpo", "m/eval/grpo"]
    assert of.named(["m/eval"]) == ["m/eval/grpo", "m/eval/grpo_2"]
    assert of.named(["eval", "grpo"]) == list(of.stages)
    with pytest.raises(RequestError, match="no stage 'gorlim'; there are m/train/grpo, m/eval/grpo"):
        of.named(["grpo", "gorlim"])


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([Stage("b", QUICK, ("a",)), Stage("a", QUICK)], "stage b needs a, which is not listed before it"),
        ([Stage("a", QUICK), Stage("a", QUICK)], "two stages are called a"),
    ],
)
def test_a_graph_is_listed_in_an_order_in_which_it_can_run(tmp_path: Path, stages: list[Stage], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Graph(stages, tmp_path)


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("a", QUICK))
    run(of)
    (tmp_path / "stages" / "a.json").write_text("{")
    assert states(of) == {"a": "failed"}
    assert len(run(of)) == 1
    assert states(of) == {"a": "done"}


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("a", QUICK))
    run(of)
    with alone(tmp_path):
        for act in (run, lambda of: forget(of, ["a"])):
            with pytest.raises(RequestError, match="another run writes"):
                act(of)
    assert states(of) == {"a": "done"}


def begun(out: Path, before: str = "") -> tuple[subprocess.Popen[str], int]:
    """A run whose command is there until it is asked to end, and the command's process.

    It reads from a pipe which nobody writes to. `before` is code that runs first.
    """
    pipe = out / "pipe.jsonl"
    os.mkfifo(pipe)
    program = (
        f"{before}\n"
        "from pathlib import Path; from closedbook.training.stage_runs import run\n"
        "from closedbook.training.stages import Graph, Stage\n"
        f"run(Graph([Stage('a', ('judge', 'grade', {str(pipe)!r}))], Path({str(out)!r})), ['a'], lambda said: None)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    until = time.monotonic() + 300
    while not (found := children.read_text().split()) and time.monotonic() < until:
        time.sleep(0.05)
    (child,) = found
    while time.monotonic() < until:
        try:  # this end cannot be opened before the command has opened its own
            os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:
            time.sleep(0.05)
    time.sleep(0.2)
    return parent, int(child)


@pytest.mark.parametrize("before", ["", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"])
@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_command_even_from_the_background_and_the_stage_is_not_done(
    tmp_path: Path, asked: signal.Signals, before: str
) -> None:
    parent, child = begun(tmp_path, before)  # a shell's `&` lets a process ignore SIGINT, and what it starts too
    assert os.getsid(child) == child  # or a terminal's Ctrl-C would reach it twice, and training would end at once
    parent.send_signal(asked)
    _, said = parent.communicate(timeout=300)
    assert parent.returncode and "WorkError: interrupted; the same command goes on" in said
    assert not Path(f"/proc/{child}").exists()
    assert json.loads((tmp_path / "stages" / "a.json").read_text())["state"] == "begun"


def test_a_command_whose_run_was_killed_keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    parent, child = begun(tmp_path)
    parent.kill()
    parent.communicate()
    same = graph(tmp_path, Stage("a", ("judge", "grade", str(tmp_path / "pipe.jsonl"))))
    assert states(same) == {"a": "running"}
    with pytest.raises(RequestError, match="another run writes"):
        run(same)
    os.kill(child, signal.SIGKILL)
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert states(same) == {"a": "failed"}
    other = graph(tmp_path, Stage("a", QUICK))
    assert states(other) == {"a": "changed"}
    forget(other, ["a"])
    assert len(run(other)) == 1
