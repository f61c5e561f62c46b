"""`closedbook eval`: a front to lm_eval with this project's defaults, and a run folder that a rerun goes on from.

What it adds to plain `lm_eval`: it looks at our tasks only (lm-eval's own take 15 s to index), applies the chat
template when the model has one, judges by rules unless told otherwise, reports Wilson intervals, and keeps generated
answers in a cache that is keyed by the checkpoint's content. lm-eval's own `--use_cache` is not: pointed at one file,
it serves one model's answers as another's.
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
from pathlib import Path
from typing import Any

from closedbook.harness.errors import RequestError, WorkError
from closedbook.harness.files import tasks_dir, write_text
from closedbook.harness.statistics import Estimate, proportion

LOCAL_BACKENDS = ("hf", "vllm")
METRICS = ("judge_correct", "exact_match", "contains", "judge_failed")


@dataclass(frozen=True, slots=True)
class Sample:
    """One question as the model answered it."""

    task: str
    question: str
    golds: tuple[str, ...]
    answer: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a run found: figures by task and metric, the answers, and where everything was written."""

    figures: Mapping[str, Mapping[str, Estimate]]
    samples: tuple[Sample, ...]
    folder: Path


def task_names() -> list[str]:
    """Names of all tasks and groups of this package."""
    return sorted(path.stem for path in tasks_dir().glob("*.yaml"))


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of a model folder's files: the identity of a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _check_local_model(model: str) -> tuple[str, bool]:
    """The identity of a checkpoint, and whether it has a chat template.

    Raises:
        RequestError: It is no model, or has no tokenizer.
    """
    from transformers import AutoConfig, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    folder = Path(model)
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{model} is no model folder or hub id that can be read: {_first_line(error)}") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except Exception as error:  # each tokenizer class fails in its own way when its files are missing
        raise RequestError(
            f"{model} has no tokenizer that can be read ({_first_line(error)}); save one there with "
            "tokenizer.save_pretrained, or name it with --model-args tokenizer=..."
        ) from error
    if not len(tokenizer):
        raise RequestError(f"{model} has no tokenizer; save one there with tokenizer.save_pretrained")
    commit = getattr(config, "_commit_hash", None)
    identity = folder_digest(folder) if folder.is_dir() else f"{model}@{commit or 'unknown'}"
    return identity, bool(getattr(tokenizer, "chat_template", None))


def _default_device() -> str:
    """The device that lm-eval does not find by itself: its default is CUDA, there or not."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def parse_model_args(text: str) -> dict[str, str]:
    """`a=1,b=2` as a mapping.

    Raises:
        RequestError: A part has no "=".
    """
    pairs = [part.partition("=") for part in text.split(",") if part]
    if wrong := next((key for key, equals, _ in pairs if not equals), None):
        raise RequestError(f"--model-args: {wrong!r} is not of the form name=value")
    return {key: value for key, _, value in pairs}


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuse unknown tasks before anything is loaded.

    Raises:
        RequestError: There is no such task.
    """
    known = task_names()
    if unknown := [task for task in tasks if task not in known]:
        raise RequestError(f"no task {unknown[0]!r}; there are {', '.join(known)}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval's notices off and its prints on standard error, so that standard output is ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _describe(model: str, backend: str, given: Mapping[str, str]) -> tuple[str, bool, dict[str, Any]]:
    """Identity of the checkpoint, whether it has a chat template, and the backend's arguments."""
    if backend not in LOCAL_BACKENDS:
        return f"{model}@{given.get('base_url', '')}", "chat" in backend, {"model": model} | dict(given)
    with _quiet():
        identity, has_template = _check_local_model(model)
    defaults = {"pretrained": model, "dtype": "bfloat16"}
    if backend == "hf":
        defaults["device"] = _default_device()
    return identity, has_template, defaults | dict(given)


def evaluate(
    model: str,
    tasks: Sequence[str],
    *,
    backend: str = "hf",
    model_args: Mapping[str, str] | None = None,
    limit: int | None = None,
    batch_size: str | None = None,
    chat: bool | None = None,
    out: Path | None = None,
) -> Evaluation:
    """Score a model and write a run folder.

    Args:
        model: Model folder or hub id; for an API backend the model's name on the server.
        tasks: Names of our tasks or groups.
        backend: lm-eval's name of the backend.
        model_args: Further arguments of the backend.
        limit: Questions a task, all unless given.
        batch_size: Batch size as lm-eval takes it; by default "auto", and 32 where that would try for hours (a CPU).
        chat: Apply the chat template; by default when the model has one, or the backend speaks chat.
        out: Run folder; by default one under runs/ that is named after the checkpoint.

    Raises:
        RequestError: No such task, no such model, a model without tokenizer, or a judge that is wrongly set up.
        WorkError: The run failed; answers generated so far are kept, and the same call goes on from there.
    """
    check_tasks(tasks)
    identity, has_template, arguments = _describe(model, backend, model_args or {})
    batch_size = batch_size or ("32" if arguments.get("device") == "cpu" else "auto")
    chat = has_template if chat is None else chat
    digest = hashlib.sha256(json.dumps([identity, backend, arguments, chat]).encode()).hexdigest()[:12]
    folder = out or Path("runs") / f"eval-{re.sub(r'[^A-Za-z0-9.-]+', '_', Path(model).name)}-{digest}"
    described = {"model": model, "identity": identity, "backend": backend, "arguments": arguments}
    _write_run(folder, described | {"chat": chat, "tasks": list(tasks), "limit": limit})
    with _quiet():
        results = _lm_eval(backend, arguments, tasks, limit, batch_size, chat, folder, folder / f"answers-{digest}")
    figures, samples = read_samples(results["samples"])
    written = {task: {name: asdict(value) for name, value in entry.items()} for task, entry in figures.items()}
    write_text(folder / "figures.json", json.dumps(written, indent=2) + "\n")
    return Evaluation(figures, samples, folder)


def _write_run(folder: Path, configuration: Mapping[str, Any]) -> None:
    from closedbook.harness.task import installed_versions

    described = dict(configuration) | {"versions": installed_versions()}
    write_text(folder / "run.json", json.dumps(described, indent=2) + "\n")


def _lm_eval(
    backend: str,
    arguments: Mapping[str, Any],
    tasks: Sequence[str],
    limit: int | None,
    batch_size: str,
    chat: bool,
    folder: Path,
    cache: Path,
) -> dict[str, Any]:
    """Run lm_eval on our tasks; its results and samples are saved in its own format."""
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False, metadata=dict(arguments))
    tracker = EvaluationTracker(output_path=str(folder))
    try:
        results = simple_evaluate(
            model=backend,
            model_args=dict(arguments),
            tasks=list(tasks),
            batch_size=batch_size,
            limit=limit,
            use_cache=str(cache),
            apply_chat_template=chat,
            task_manager=manager,
            evaluation_tracker=tracker,
            log_samples=True,
            confirm_run_unsafe_code=False,
        )
    except KeyboardInterrupt:
        raise WorkError(f"interrupted; the same command goes on from the answers kept in {folder}") from None
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, rows in samples.items():
        tracker.save_results_samples(task_name=task, samples=[dict(row) for row in rows])
    return {**results, "samples": samples}


def read_samples(
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[dict[str, dict[str, Estimate]], tuple[Sample, ...]]:
    """Figures by task and metric, and the answers, from lm-eval's samples."""
    figures = {
        task: {
            metric: proportion(float(row[metric]) for row in rows)
            for metric in METRICS
            if rows and all(metric in row for row in rows)
        }
        for task, rows in samples.items()
    }
    headline = "judge_correct"
    answers = tuple(
        Sample(
            task=task,
            question=row["doc"]["question"],
            golds=tuple(row["doc"]["answers"]),
            answer=str(row["filtered_resps"][0][0].text),
            correct=row.get(headline, row["contains"]) == 1,
        )
        for task, rows in samples.items()
        for row in rows
    )
    return figures, answers
