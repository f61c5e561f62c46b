"""The graph of a study: real commands, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import alone
from closedbook.training.stages import Graph, Stage

QUICK = ("recipes", "sft_cpu")  # a command that does something


def graph(out: Path, *stages: Stage) -> Graph:
    return Graph(stages, out)


def run(of: Graph, *names: str) -> list[str]:
    """What was said to begin."""
    said: list[str] = []
    of.run(names or of.stages, said.append)
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


def test_a_stage_that_fails_says_why_and_the_ones_before_it_stay_done(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("a", QUICK), Stage("b", ("recipes", "nosuch"), ("a",)), Stage("c", QUICK, ("b",)))
    with pytest.raises(WorkError, match=r"(?s)stage b failed, exit code 2; .*no recipe 'nosuch'"):
        run(of)
    assert states(of) == {"a": "done", "b": "failed", "c": "waiting"}
    mended = graph(tmp_path, Stage("a", QUICK), Stage("b", QUICK, ("a",)), Stage("c", QUICK, ("b",)))
    assert run(mended) == ["1 of 2: b", "2 of 2: c"]


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
    other.forget(["a"])
    assert not made.exists()
    assert states(other) == {"a": "waiting", "b": "waiting", "c": "done"}
    made.mkdir()
    assert len(run(other)) == 2


def test_what_was_made_and_removed_by_hand_is_made_again(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    of = graph(tmp_path, Stage("a", QUICK, makes=(made, tmp_path / "other")))
    run(of)
    assert states(of) == {"a": "done"}
    made.rmdir()
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

    monkeypatch.setattr("closedbook.training.stages.shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        of.forget(["a"])
    assert [name for name in "abc" if of.done(name)] == ["a"]
    assert made["a"].is_dir()


def test_a_link_is_forgotten_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    made = tmp_path / "made"
    made.symlink_to(tmp_path / "elsewhere")
    of = graph(tmp_path, Stage("a", QUICK, makes=(made,)))
    run(of)
    of.forget(["a"])
    assert (tmp_path / "elsewhere").is_dir() and not made.is_symlink()


def test_a_recipe_behind_a_name_is_a_setting_too(tmp_path: Path) -> None:
    run(graph(tmp_path, Stage("a", QUICK, stated="one")))
    assert states(graph(tmp_path, Stage("a", QUICK, stated="two"))) == {"a": "changed"}


def test_a_stage_is_not_run_before_what_it_needs(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("a", QUICK), Stage("b", QUICK, ("a",)))
    with pytest.raises(RequestError, match="stage b needs a, which is not done"):
        run(of, "b")


def test_stages_are_found_by_any_part_of_their_name(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("m/train/grpo", QUICK), Stage("m/eval/grpo", QUICK), Stage("m/eval/grpo_2", QUICK))
    assert of.named(["grpo"]) == ["m/train/grpo", "m/eval/grpo"]
    assert of.named(["m/eval"]) == ["m/eval/grpo", "m/eval/grpo_2"]
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
    assert len(run(of)) == 1
    assert states(of) == {"a": "done"}


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    of = graph(tmp_path, Stage("a", QUICK))
    run(of)
    with alone(tmp_path):
        for act in (run, lambda of: of.forget(["a"])):
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
        "from pathlib import Path; from closedbook.training.stages import Graph, Stage\n"
        f"Graph([Stage('a', ('judge', 'grade', {str(pipe)!r}))], Path({str(out)!r})).run(['a'], lambda said: None)"
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
    assert not (tmp_path / "stages" / "a.json").exists()


def test_a_command_whose_run_was_killed_keeps_others_out_until_it_ends(tmp_path: Path) -> None:
    parent, child = begun(tmp_path)
    parent.kill()
    parent.communicate()
    with pytest.raises(RequestError, match="another run writes"):
        run(graph(tmp_path, Stage("a", QUICK)))
    os.kill(child, signal.SIGKILL)
    until = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert len(run(graph(tmp_path, Stage("a", QUICK)))) == 1
