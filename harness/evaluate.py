"""`closedbook eval`: a front to lm_eval with this project's defaults, and a run folder that a rerun goes on from.

What it adds to plain `lm_eval`: it looks at our tasks only (lm-eval's own take 15 s to index), applies the chat
template when the model has one, reports Wilson intervals, and keeps generated answers in a cache that is keyed by the
checkpoint's content. lm-eval's `--use_cache` has no model in its key: pointed at one file, it serves one model's
answers as another's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from closedbook.harness.errors import ClosedbookError, RequestError, WorkError, one_line
from closedbook.harness.fields import address
from closedbook.harness.files import folder_digest, tasks_dir, write_text
from closedbook.harness.judge import JudgeSettings, Tally, Triple, make_judge
from closedbook.harness.judge.calibration import read_calibration
from closedbook.harness.judge.cascade import LLMJudge, Plan
from closedbook.harness.manifests import load_questions
from closedbook.harness.metrics import METRICS
from closedbook.harness.provenance import contaminated_allowed, installed_versions
from closedbook.harness.small_model import model_path
from closedbook.harness.sources import own_home
from closedbook.harness.statistics import Confusion, Estimate, corrected, mean_over_tasks, proportion

__all__ = ["Evaluation", "evaluate", "task_names"]

LOCAL_BACKENDS = ("hf", "vllm")
SECRETS = ("key", "token", "password")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a run found: figures by task or group and metric, and where everything was written.

    Attributes:
        tally: The judgements, counted.
    """

    figures: Mapping[str, Mapping[str, Estimate]]
    folder: Path
    tally: Tally


def _task_folders() -> list[Path]:
    """The folders with task files; what a later one holds wins, as it does in lm-eval."""
    return [home for home in (own_home(), tasks_dir()) if home]


def _task_files() -> dict[str, Path]:
    """The files of all tasks and groups, by name."""
    return {path.stem: path for folder in _task_folders() for path in folder.glob("*.yaml")}


def task_names() -> list[str]:
    """Names of all tasks and groups, of this package and of one's own."""
    return sorted(_task_files())


def _check_local_model(model: str, given: Mapping[str, Any]) -> tuple[str, bool]:
    """The identity of a checkpoint, and whether it has a chat template.

    Raises:
        RequestError: It is no model, or has no tokenizer.
    """
    from transformers import AutoConfig, AutoTokenizer

    if model.startswith((".", "/", "~")) and not Path(model).is_dir():
        raise RequestError(f"no folder {model}; name a model folder or a hub id")
    loading = {name: given[name] for name in ("revision", "trust_remote_code") if name in given}
    try:
        config = AutoConfig.from_pretrained(model, **loading)
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{model} is no model folder or hub id that can be read: {one_line(error)}") from error
    named = given.get("tokenizer", model)
    advice = "save one there with tokenizer.save_pretrained, or name one with --model-args tokenizer=..."
    try:
        tokenizer = AutoTokenizer.from_pretrained(named, **loading)
    except Exception as error:  # each tokenizer class fails in its own way when its files are missing
        raise RequestError(f"{named} has no tokenizer that can be read ({one_line(error)}); {advice}") from error
    if not len(tokenizer):
        raise RequestError(f"{named} has no tokenizer; {advice}")
    commit = getattr(config, "_commit_hash", None)
    parts = [model, *(str(given[name]) for name in ("tokenizer", "peft") if name in given)]
    identity = "+".join(folder_digest(Path(part)) if Path(part).is_dir() else f"{part}@{commit}" for part in parts)
    return identity, bool(getattr(tokenizer, "chat_template", None))


def _default_device() -> str:
    """lm-eval's default is CUDA even where there is none."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def parse_model_args(text: str) -> dict[str, Any]:
    """`a=1,b=2` as a mapping, values typed as lm-eval types them.

    Raises:
        RequestError: A part has no "=", or names the model again.
    """
    from lm_eval.utils import simple_parse_args_string

    if wrong := next((part for part in text.split(",") if part and "=" not in part), None):
        raise RequestError(f"--model-args: {wrong!r} is not of the form name=value")
    given: dict[str, Any] = simple_parse_args_string(text)
    if "pretrained" in given:
        raise RequestError("--model-args: pretrained is MODEL, the first argument; name the model there")
    return given


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuse unknown tasks before anything is loaded.

    Raises:
        RequestError: There is no such task, or none is named.
    """
    known = task_names()
    wrong = next((task for task in tasks if task not in known), None)
    if wrong is not None or not tasks:
        asked = f"no task {wrong!r}" if tasks else "no task is named"
        meant = get_close_matches(f"{wrong}_dedup", known, n=1) if tasks else []
        guess = f"did you mean {meant[0]}? " if meant else ""
        raise RequestError(f"{asked}; {guess}there are {', '.join(known)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval's and transformers' notices off, their prints on standard error: standard output is ours."""
    from transformers.utils import logging as transformers_logging

    log = logging.getLogger("lm_eval")
    before, transformers_before = log.level, transformers_logging.get_verbosity()
    log.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        log.setLevel(before)
        transformers_logging.set_verbosity(transformers_before)


@dataclass(frozen=True, slots=True)
class _Run:
    """An evaluation, described in full."""

    model: str
    identity: str
    backend: str
    arguments: Mapping[str, Any]
    chat: bool
    tasks: Sequence[str]
    split: str
    limit: int | None
    judge: JudgeSettings | None
    allow_contaminated: bool = False

    @property
    def digest(self) -> str:
        """Of all that the figures depend on; what is allowed changes none, since what is refused has no figures."""
        judge = dict(make_judge(self.judge).identity) if self.judge else None
        parts = [self.answers_digest, sorted(self.tasks), self.split, self.limit, judge]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    @property
    def answers_digest(self) -> str:
        """Of all that a generated answer depends on, besides its prompt."""
        parts = [self.identity, self.backend, sorted(self.arguments.items()), self.chat, installed_versions()]
        return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def public_arguments(self) -> dict[str, Any]:
        """The backend's arguments, secrets masked."""
        return {k: "***" if any(s in k.lower() for s in SECRETS) else v for k, v in self.arguments.items()}

    def described(self) -> dict[str, Any]:
        """For people and scripts to read, without secrets."""
        judge = dict(make_judge(self.judge).identity) if self.judge else None
        return {
            "model": self.model,
            "identity": self.identity,
            "backend": self.backend,
            "arguments": self.public_arguments,
            "chat": self.chat,
            "tasks": list(self.tasks),
            "split": self.split,
            "limit": self.limit,
            "judge": judge,
            "allow_contaminated": self.allow_contaminated,
            "versions": installed_versions(),
        }


def _check_backend(backend: str, batch_size: str | None) -> None:
    from lm_eval.api.registry import get_model

    try:
        get_model(backend)
    except (KeyError, ValueError) as error:
        raise RequestError(
            f"--backend: lm-eval has no model type {backend!r}; hf, vllm, local-chat-completions"
        ) from error
    if batch_size is not None and not re.fullmatch(r"auto(:\d+)?|[1-9]\d*", batch_size):
        raise RequestError(f"--batch-size: {batch_size!r} is neither a number nor auto")


def _describe(model: str, backend: str, given: Mapping[str, Any]) -> tuple[str, bool, dict[str, Any]]:
    """Identity of the checkpoint, whether it has a chat template, and the backend's arguments."""
    if backend not in LOCAL_BACKENDS:
        try:
            url = address(str(given["base_url"])) if "base_url" in given else ""
        except ValueError as error:
            raise RequestError(f"--model-args: base_url {error}") from None
        return f"{model}@{url}", "chat" in backend, {"model": model} | dict(given)
    with _quiet():
        identity, has_template = _check_local_model(model, given)
    defaults = {"pretrained": model}
    if backend == "hf":
        defaults["device"] = _default_device()
    return identity, has_template, defaults | dict(given)


def evaluate(
    model: str,
    tasks: Sequence[str],
    *,
    split: str = "test",
    judge: JudgeSettings | None = None,
    backend: str = "hf",
    model_args: Mapping[str, Any] | None = None,
    limit: int | None = None,
    batch_size: str | None = None,
    chat: bool | None = None,
    out: Path | None = None,
    calibration: Path | None = None,
    allow_contaminated: bool = False,
) -> Evaluation:
    """Score a model and write a run folder.

    Args:
        model: Model folder, hub id or the name of a packaged model; for an API backend the model's name on the server.
        tasks: Names of our tasks or groups.
        split: "test", "validation", "train", or "dropped": the test questions that train states.
        judge: Settings of the judge; without one only exact_match and contains are reported.
        backend: lm-eval's name of the backend.
        model_args: Further arguments of the backend.
        limit: Questions per task, all unless given.
        batch_size: Batch size as lm-eval takes it; by default "auto", and 32 where that would try for hours (a CPU).
        chat: Apply the chat template; by default when the model has one, or the backend speaks chat.
        out: Run folder; by default one under runs/ that is named after model, tasks and judge.
        calibration: A calibration of this judge; accuracy corrected for the judge's errors is then reported too.
        allow_contaminated: Ask a checkpoint questions that it was trained on; the run folder then says how many.

    Raises:
        RequestError: No such task, no such model, a model without tokenizer, one that was trained on the questions, or
            a judge that is wrongly set up.
        WorkError: The run failed or was interrupted. With the hf and API backends the same call goes on from the
            answers it has; vLLM keeps only those of a task that was finished.
    """
    make_judge.cache_clear()  # a new run has a new budget
    check_tasks(tasks)
    if calibration and not judge:
        raise RequestError("a calibration is of a judge; name the judge too")
    table = read_calibration(calibration, make_judge(judge)) if calibration and judge else None
    _check_backend(backend, batch_size)
    allowed = contaminated_allowed({"allow_contaminated": allow_contaminated})
    model = model_path(model) if backend in LOCAL_BACKENDS else model
    identity, has_template, arguments = _describe(model, backend, model_args or {})
    chat = has_template if chat is None else chat
    run = _Run(model, identity, backend, arguments, chat, tasks, split, limit, judge, allowed)
    folder = out or Path("runs") / f"eval-{re.sub(r'[^A-Za-z0-9.-]+', '_', Path(model).name)}-{run.digest}"
    batch_size = batch_size or ("32" if arguments.get("device") == "cpu" else "auto")
    try:
        with _quiet():
            results, samples = _lm_eval(run, batch_size, folder)
    except KeyboardInterrupt:
        raise WorkError(f"interrupted; the same command goes on from the answers kept in {folder}") from None
    except ClosedbookError:
        raise
    except Exception as error:  # whatever lm-eval, a backend or the disk says, it ends this run and nothing else
        said = f"{type(error).__name__}: {one_line(error)}"
        raise WorkError(f"the run failed ({said}); answers so far are kept in {folder}") from error
    figures, tally = read_samples(samples)
    if table:
        figures = {task: _with_corrected(entry, table) for task, entry in figures.items()}
    figures |= {
        group: _group_figures([figures[task] for task in members if task in figures])
        for group, members in results.get("group_subtasks", {}).items()
        if members
    }
    written = {task: {name: asdict(value) for name, value in entry.items()} for task, entry in figures.items()}
    write_text(folder / "figures.json", json.dumps(written, indent=2) + "\n")
    return Evaluation(figures, folder, tally)


def _with_corrected(figures: Mapping[str, Estimate], table: Confusion) -> dict[str, Estimate]:
    """Figures with accuracy corrected for the judge's errors beside the raw one."""
    return {**figures, "corrected": corrected(figures["judge_correct"], table)}


def plan_judging(
    tasks: Sequence[str], judge: JudgeSettings, limit: int | None = None, split: str = "test"
) -> Plan | None:
    """The calls that grading a run would take at most, as if no answer were decided by a rule; None without an LLM.

    Raises:
        RequestError: No such task, or a judge that is wrongly set up.
    """
    check_tasks(tasks)
    grader = make_judge(judge)
    if not isinstance(grader, LLMJudge):
        return None
    asked = [q for task in members(tasks) for q in load_questions(task.partition("_")[0], split)[:limit]]
    return grader.plan(Triple(q.question, q.answers, f"(an answer to {q.id})") for q in asked)


def members(tasks: Sequence[str]) -> list[str]:
    """The tasks, with groups resolved."""
    import yaml

    files = _task_files()

    def of(task: str) -> list[str]:
        try:
            described = yaml.safe_load(files[task].read_text(encoding="utf-8").partition("metadata:")[0])
        except yaml.YAMLError:  # a task that is written out, with a !function in it
            described = None
        return list(described["task"]) if isinstance(described, dict) and "group" in described else [task]

    return [member for task in tasks for member in of(task)]


def _lm_eval(run: _Run, batch_size: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run lm_eval on our tasks; its results and samples are saved in its own format and returned."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    judge = {"judge": run.judge.model_dump()} if run.judge else {}
    metadata = run.public_arguments | judge | {"split": run.split, "allow_contaminated": run.allow_contaminated}
    manager = TaskManager(include_path=_task_folders(), include_defaults=False, metadata=metadata)
    if lost := next((task for task in run.tasks if task not in manager.all_tasks), None):
        raise RequestError(
            f"{_task_files()[lost]} is no task {lost}, or a file that it includes is not there; write it as "
            "`closedbook benchmarks new` does"
        )
    # a source that cannot be had, and a checkpoint that was trained on it, are found out before the model is loaded
    tasks = manager.load(list(run.tasks))["tasks"]
    checkpoint = {name: task.config.metadata["closedbook"]["checkpoint"] for name, task in tasks.items()}
    described = run.described() | {"checkpoint": checkpoint}
    (folder / "figures.json").unlink(missing_ok=True)  # until this run has ended there are none of it
    write_text(folder / "run.json", json.dumps(described, indent=2, default=str) + "\n")
    if run.judge:  # and so is a judge; the tasks look again, later
        make_judge(run.judge).preflight()
    tracker = EvaluationTracker(output_path=str(folder))
    results = simple_evaluate(
        model=run.backend,
        model_args=dict(run.arguments),
        tasks=list(run.tasks),
        batch_size=batch_size,
        limit=run.limit,
        use_cache=str(folder / f"answers-{run.answers_digest}"),
        apply_chat_template=run.chat,
        task_manager=manager,
        evaluation_tracker=tracker,
        log_samples=True,
        bootstrap_iters=1000,  # lm-eval's own errors; ours are Wilson's
    )
    if results is None:  # rank 0 gathers, saves and reports
        raise SystemExit(0)
    samples = results.pop("samples")
    results["config"]["model_args"] = run.public_arguments  # as written to disk: without secrets
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=[dict(row) for row in rows])
    return dict(results), samples


def _group_figures(members: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """The mean over tasks of each metric that all of them have."""
    shared = [name for name in METRICS if members and all(name in member for member in members)]
    return {name: mean_over_tasks([member[name] for member in members]) for name in shared}


def read_samples(
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[dict[str, dict[str, Estimate]], Tally]:
    """Figures by task and metric, and the judgements counted, from lm-eval's samples."""
    figures = {
        task: {
            name: proportion(float(row[name]) for row in rows)
            for name in METRICS
            if rows and all(name in row for row in rows)
        }
        for task, rows in samples.items()
    }
    tally = Tally.of(
        answer.judgement
        for rows in samples.values()
        for row in rows
        for answer in row["filtered_resps"][0]
        if answer.judgement is not None
    )
    return figures, tally
