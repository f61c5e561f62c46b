"""What a number depends on besides the questions: versions, and what a checkpoint was trained on.

Training writes `provenance.json` into every checkpoint, as its last file, so a checkpoint that has one is whole. The
tasks read it when they are built, before a model answers: questions that were trained on are refused unless that is
allowed. What surprises: ids are compared and not names of splits, so training with another manifest, and that of a
checkpoint's parents, counts too; and a model without the file is not checked, since nobody knows what it has seen.

    >>> contaminated_allowed({"allow_contaminated": True})
    True
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from closedbook.harness.errors import RequestError, one_line, warn_once
from closedbook.harness.files import write_text
from closedbook.harness.judge import Judge
from closedbook.harness.manifests import read_manifest
from closedbook.harness.prompts import Style, template_digest
from closedbook.harness.questions import ids_digest
from closedbook.harness.sources import packaged
from closedbook.harness.splits import read_overlaps

PACKAGES = ("closedbook", "lm_eval", "datasets", "transformers", "torch", "vllm", "trl", "peft", "accelerate")
PROVENANCE_FILE = "provenance.json"
ALLOW = "CLOSEDBOOK_ALLOW_CONTAMINATED"
AGAIN = "copy the checkpoint again from where it was trained"
PARTS = ("pretrained", "peft", "delta", "lora_local_path")
"""The arguments with which lm-eval's backends name a model and what is laid over it."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a checkpoint comes from.

    Attributes:
        method: How it was trained, such as "grpo".
        base_model: What training started from, as it was named.
        base_digest: The `folder_digest` of that folder, or `name@commit`.
        step: Optimiser steps taken.
        seed: Seed of the training.
        recipe: The recipe, resolved: values that JSON has, keys that are texts.
        manifests: Digest of the manifest of each benchmark that was trained on.
        train_ids: The questions that its training drew from, whether or not it came to all of them, its parents'
            included; sorted, each once, however given.
        judge: Identity of the judge that gave rewards or chose answers.
        prompt: Style and template digest, such as "direct-0123456789ab".
        versions: `installed_versions` at the time.
        revision: `code_revision` at the time.
        parent: The provenance of what training started from, without its ids, where that has one.
        model_digest: As `base_digest`, of the very folder that training started from; empty where it was not noted.
    """

    method: str
    base_model: str
    base_digest: str
    step: int
    seed: int
    recipe: Mapping[str, object]
    manifests: Mapping[str, str]
    train_ids: tuple[str, ...]
    judge: Mapping[str, object] | None
    prompt: str
    versions: Mapping[str, str]
    revision: str | None
    parent: Mapping[str, object] | None = None
    model_digest: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "train_ids", tuple(sorted(set(self.train_ids))))

    @property
    def train_ids_digest(self) -> str:
        """Equal for equal sets of questions."""
        return ids_digest(self.train_ids)

    def without_ids(self) -> dict[str, object]:
        """All but the ids, as JSON reads it back: what results carry, and what a child has as its parent."""
        stated = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "train_ids"}
        stated["train_ids_digest"] = self.train_ids_digest
        return {name: json.loads(json.dumps(value, sort_keys=True)) for name, value in stated.items()}


def to_text(provenance: Provenance) -> str:
    """The provenance as JSON, its ids last: equal ones give equal bytes."""
    stated = provenance.without_ids() | {"train_ids": provenance.train_ids}
    return json.dumps(stated, indent=2, allow_nan=False) + "\n"


def from_text(text: str, where: str) -> Provenance:
    """The provenance that `to_text` wrote; fields of a later version are left out.

    Raises:
        RequestError: The text is not such a provenance, or its ids are not the ones that were written.
    """
    try:
        stated = json.loads(text)
        if not isinstance(stated, dict):
            raise TypeError("it is no mapping")
        found = TypeAdapter(Provenance).validate_json(text, strict=True)
        if found.train_ids_digest != stated.get("train_ids_digest"):
            raise ValueError("its train_ids are not those of train_ids_digest")
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestError(f"{where} is no whole provenance of a checkpoint ({_reason(error)}); {AGAIN}") from error
    return found


def _reason(error: Exception) -> str:
    """What is wrong, and in which field where that is known."""
    if not isinstance(error, ValidationError):
        return one_line(error)
    first = error.errors()[0]
    return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))


def write_provenance(folder: Path, provenance: Provenance) -> Path:
    """Write a checkpoint's provenance, whole or not at all, and return its path. Write it after all other files.

    Raises:
        RequestError: A folder or a device stands in its place.
        WorkError: The file cannot be written.
    """
    path = folder / PROVENANCE_FILE
    write_text(path, to_text(provenance))
    return path


def read_provenance(model: str, revision: str | None = None, subfolder: str = "") -> Provenance | None:
    """The provenance of a model folder or of a model of the hub; None where there is none.

    Without a connection a model of the hub has one only if the cache holds it.

    Args:
        model: Folder or hub id.
        revision: Branch, tag or commit on the hub.
        subfolder: Where in the folder or repository the checkpoint lies.

    Raises:
        RequestError: There is one that cannot be read, or that is malformed; or training has not finished the folder,
            so that it holds a model without what the model has seen.
    """
    path = Path(model, subfolder, PROVENANCE_FILE) if Path(model).is_dir() else _from_hub(model, revision, subfolder)
    if path is None:
        return None
    if not (path.exists() or path.is_symlink()):
        if _unfinished(path.parent):
            raise RequestError(f"{path.parent} is of a training run that has not ended; go on with --resume")
        return None
    try:
        return from_text(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; {AGAIN}") from error


def _unfinished(folder: Path) -> bool:
    """Whether a folder without provenance is a run of ours, or a checkpoint in one: theirs is written last."""
    run = folder.parent if (folder / "trainer_state.json").is_file() else folder
    return all((run / name).is_file() for name in ("recipe.yaml", "log.jsonl"))


def _from_hub(model: str, revision: str | None, subfolder: str) -> Path | None:
    try:
        from transformers.utils.hub import cached_file

        found = cached_file(model, PROVENANCE_FILE, revision=revision, subfolder=subfolder)
    except (ImportError, OSError):  # no such model or file, no connection, no access
        return None
    return Path(found) if found else None


def check_untrained(
    model: str, provenance: Provenance, benchmark: str, split: str, ids: Collection[str], allowed: bool
) -> dict[str, int | None]:
    """Refuse questions that a checkpoint was trained on; where that is allowed, warn of them.

    Test facts that it was trained on in the words of another benchmark are never refused, only said.

    Args:
        model: The checkpoint, as it was named.
        provenance: What it was trained on.
        benchmark: Whose questions are asked.
        split: The split that they are of.
        ids: All questions of that split, whether or not a limit asks fewer.
        allowed: Whether to warn only.

    Returns:
        For the results. `contaminated`: how many of the questions were trained on. `overlaps`: of how many other
        benchmarks' questions that were trained on state the fact, as far as `read_overlaps` knows; None for other
        splits than test and for a benchmark of one's own, of which it knows nothing.

    Raises:
        RequestError: A question was trained on, and that is not allowed.
        ManifestError: The overlaps cannot be read.
    """
    trained, asked = set(provenance.train_ids), set(ids)
    where = f"of the {len(asked)} questions of {benchmark}_dedup (split {split})"
    if seen := trained & asked:
        said = f"{model} was trained on {len(seen)} {where}, such as {min(seen)}: its score would be memory of training"
        if not allowed:
            raise RequestError(f"{said}; choose another checkpoint, or allow it with --allow-contaminated ({ALLOW}=1)")
        warn_once(said)
    if split != "test" or benchmark not in packaged():
        return {"contaminated": len(seen), "overlaps": None}
    stated = asked & {o.test_id for o in read_overlaps() if o.test_benchmark == benchmark and o.train_id in trained}
    if stated:
        warn_once(f"{model} was trained on questions of other benchmarks that state the facts of {len(stated)} {where}")
    return {"contaminated": len(seen), "overlaps": len(stated)}


def contaminated_allowed(metadata: Mapping[str, object]) -> bool:
    """Whether questions that were trained on may be asked: by the environment, or by a task's metadata.

    Raises:
        RequestError: One of them says neither yes nor no.
    """
    variable, stated = os.environ.get(ALLOW, ""), metadata.get("allow_contaminated", False)
    if variable not in ("", "0", "1"):
        raise RequestError(f"{ALLOW} is 1 or 0, not {variable!r}")
    if not isinstance(stated, bool):
        raise RequestError(f"metadata: allow_contaminated is true or false, not {stated!r}")
    return stated or variable == "1"


def check_checkpoints(
    metadata: Mapping[str, object], benchmark: str, split: str, ids: Collection[str]
) -> dict[str, dict[str, object]]:
    """What results carry of each checkpoint that a task's metadata names, having checked it.

    Args:
        metadata: Holds the backend's arguments, as lm-eval puts them there; `model`, a name on a server, is not one.
        benchmark: Whose questions are asked.
        split: The split that they are of.
        ids: All questions of that split.

    Returns:
        Under the argument that names it: the provenance without ids, with the counts of `check_untrained`.

    Raises:
        RequestError: A question was trained on and that is not allowed, or a provenance is malformed.
        ManifestError: The overlaps cannot be read.
    """
    allowed = contaminated_allowed(metadata)
    revision, subfolder = (str(metadata.get(name) or "") for name in ("revision", "subfolder"))
    carried = {}
    for part in PARTS:
        model = metadata.get(part)
        if not model or not isinstance(model, str | os.PathLike):  # a model in memory has no files
            continue
        name = os.fspath(model)
        within = subfolder if part == "pretrained" else ""
        for key, path, inner in ((part, name, within), (f"{part} base", _base_of(Path(name, within)), "")):
            provenance = read_provenance(path, revision or None, inner) if path else None
            if provenance:
                counts = check_untrained(path, provenance, benchmark, split, ids, allowed)
                carried[key] = provenance.without_ids() | counts
    return carried


def result_provenance(
    benchmark: str, split: str, style: Style, judge: Judge | None, metadata: Mapping[str, object]
) -> dict[str, Any]:
    """What makes a number comparable with another one: what every suite writes to its results.

    Args:
        benchmark: Whose questions are asked.
        split: The split that they are of.
        style: Of the prompt.
        judge: Who grades; None where nobody does.
        metadata: As `check_checkpoints` takes it.

    Raises:
        RequestError: A checkpoint was trained on a question and that is not allowed, or its provenance is malformed.
        ManifestError: The manifest or the overlaps cannot be read.
    """
    manifest = read_manifest(benchmark)
    return {
        "manifest": manifest.digest,
        "variant": manifest.variant,
        "split": split,
        "prompt": f"{style}-{template_digest(style)}",
        "judge": dict(judge.identity) if judge else None,
        "checkpoint": check_checkpoints(metadata, benchmark, split, manifest.ids(split)) or None,
        "versions": installed_versions(),
    }


def _base_of(adapters: Path) -> str:
    """The folder of the model that adapters are laid over, as they name it; empty where there are none."""
    try:
        stated = json.loads((adapters / "adapter_config.json").read_text(encoding="utf-8"))
        base = str(stated["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return base if Path(base).is_dir() else ""


def installed_versions() -> dict[str, str]:
    """Versions of the packages that a number can depend on, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def code_revision() -> str | None:
    """The commit of the code that runs: of its checkout, else the one that it was installed from; None if unknown."""
    if found := checkout_revision(Path(__file__).resolve().parents[1]):
        return found
    try:
        return installed_revision(distribution("closedbook").read_text("direct_url.json"))
    except (PackageNotFoundError, OSError):
        return None


def checkout_revision(folder: Path) -> str | None:
    """The commit of a checkout, with "+dirty" where tracked files differ; None for a folder that is not its top."""
    if not (folder / ".git").exists():
        return None
    describe = ["describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+dirty"]
    command = ["git", "--no-optional-locks", "-C", str(folder), *describe]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def installed_revision(direct_url: str | None) -> str | None:
    """The commit in a package's direct_url.json (PEP 610); None where it was not installed from version control."""
    try:
        commit = json.loads(direct_url or "")["vcs_info"]["commit_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return commit if isinstance(commit, str) else None
