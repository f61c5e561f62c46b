"""Where files lie, and how they are written: aside first, then renamed, so that a reader never sees half a file."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import Any, TextIO, TypeVar

import platformdirs

from closedbook.harness.errors import RequestError, WorkError, one_line

T = TypeVar("T")


def tasks_dir() -> Path:
    """The folder with the task files and manifests.

    In a checkout (also when installed editable) it is tasks/ itself, so that `splits build` writes what git sees. In an
    installed wheel it lies inside lm_eval, the only place where lm-eval 0.4.13 finds tasks without a flag.
    """
    here = Path(__file__).resolve()
    checkout = here.parents[1] / "tasks"
    if checkout.is_dir() and (here.parents[1] / "pyproject.toml").is_file():
        return checkout
    return here.parents[2] / "lm_eval" / "tasks" / "closedbook"


def cache_dir() -> Path:
    """CLOSEDBOOK_CACHE, or the user's cache folder: things that can be made again, such as the demo's model."""
    return Path(os.environ.get("CLOSEDBOOK_CACHE") or platformdirs.user_cache_dir("closedbook"))


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of a model folder's files: the identity of a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def model_digest(path: str) -> str:
    """The identity of a model: its files' digest, or its commit on the hub.

    Raises:
        RequestError: It is no folder, and the hub does not have it or cannot be reached.
    """
    if Path(path).is_dir():
        return folder_digest(Path(path))
    from transformers import AutoConfig

    try:
        return f"{path}@{getattr(AutoConfig.from_pretrained(path), '_commit_hash', None)}"
    except (OSError, ValueError) as error:
        raise RequestError(
            f"model {path}: no such folder, and the hub cannot be asked or does not have it ({one_line(error, 120)}); "
            "name a model folder, a hub id, or smollm2, gemma-270m, qwen-0.5b"
        ) from error


def read_jsonl(path: Path, parse: Callable[[Any], T], wanted: str) -> Iterator[T]:
    """What `parse` makes of each line of a JSON Lines file; empty lines are skipped.

    Lines end at a newline only: other characters that Unicode calls line ends may stand inside a JSON text.

    Raises:
        RequestError: The file cannot be read, or `parse` refuses a line (KeyError, TypeError or ValueError).
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = parse(json.loads(line)) if line.strip() else None
                except (KeyError, TypeError, ValueError, RecursionError) as error:
                    reason = "it is no JSON" if isinstance(error, json.JSONDecodeError) else one_line(error)
                    if isinstance(error, KeyError):
                        reason = f"it has no {error.args[0]}"
                    raise RequestError(f"{path}, line {number}: {reason}; give {wanted}") from error
                if row is not None:
                    yield row
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {one_line(error)}; name a JSON Lines file with {wanted}") from error


_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "None": (type(None),),
}  # fmt: skip


@cache
def _types_of(made: type) -> Mapping[str, tuple[type, ...]]:
    """Types that a field may hold, of the fields that are annotated with texts and numbers alone."""
    named = {field.name: str(field.type).split(" | ") for field in fields(made)}
    return {name: tuple(t for part in of for t in _TYPES[part]) for name, of in named.items() if {*of} <= _TYPES.keys()}


def typed(made: Any) -> None:
    """See to it that the texts and numbers of a dataclass are some, whatever JSON it was made from.

    Raises:
        TypeError: A field holds something else, or a number that is none.
    """
    kind: type = type(made)
    for name, types in _types_of(kind).items():
        value = getattr(made, name)
        if not isinstance(value, types) or (isinstance(value, float) and not math.isfinite(value)):
            raise TypeError(f"its {name} is {value!r:.40}")


def resolved(path: Path) -> Path:
    """The whole path, links followed, whether or not something stands there.

    Raises:
        RequestError: No file can have that name: a loop of links, a NUL, a file in a folder's place, a part that is too
            long or not ours to see.
    """
    try:
        with suppress(FileNotFoundError):
            path.stat()
        return path.resolve()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot write {str(path)!r}: {reason}; choose another name") from error


@contextmanager
def renamed_when_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when all went well; a link is followed.

    Raises:
        RequestError: Something stands at `path` that is no regular file: a folder, a device; or it is no path.
        WorkError: The file cannot be written (no space, no permission); what stood at `path` is untouched.
    """
    path = resolved(path)
    if path.exists() and not path.is_file():
        raise RequestError(f"cannot write {path}: it is no regular file; choose another name")
    aside = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(path)
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WorkError(f"cannot write {path}: {reason}; free space or choose another folder") from error
    finally:
        with suppress(OSError):  # gone already where all went well, or never made
            aside.unlink()


@contextmanager
def written_aside(path: Path) -> Iterator[TextIO]:
    """A text file to write piece by piece, which takes its name only when it is whole; a link is followed.

    Raises:
        RequestError: Something stands at `path` that is no regular file: a folder, a device.
        WorkError: The file cannot be written (no space, no permission); what stood at `path` is untouched.
    """
    with renamed_when_whole(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing; a link is followed.

    Raises:
        RequestError: Something stands at `path` that is no regular file: a folder, a device.
        WorkError: The file cannot be written (no space, no permission); what stood at `path` is untouched.
    """
    with written_aside(path) as file:
        file.write(text)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing, as `write_text` does."""
    with renamed_when_whole(path) as aside:
        put(aside, data)


def put(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it; for what takes its name later."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def folder_when_whole(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when all went well, in the place of one that stood there.

    A link is followed. The old folder goes for good, so its owner must have agreed. A kill between its going and the
    new one's coming leaves it beside, as `.NAME.*.old`; at no time does `path` name half a folder.

    Raises:
        RequestError: Something stands at `path` that is no folder, or it is no path.
        WorkError: The folder cannot be written (no space, no permission); what stood at `path` is untouched.
    """
    path = resolved(path)
    if path.exists() and not path.is_dir():
        raise RequestError(f"cannot write {path}: it is no folder; choose another name")
    aside = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}.tmp")
    try:
        aside.mkdir(parents=True)
        yield aside
        _take_name(aside, path)
    except OSError as error:
        reason = error.strerror or error
        raise WorkError(f"cannot write {path}: {reason}; free space or choose another folder") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # gone already where all went well


def _take_name(aside: Path, path: Path) -> None:
    try:
        aside.rename(path)  # one step where nothing stands there
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    old = aside.with_suffix(".old")
    path.rename(old)
    try:
        aside.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def busy(folder: Path) -> bool:
    """Whether a run that keeps others out of a folder is there at this moment."""
    if not folder.is_dir():
        return False
    try:
        with alone(folder):
            return False
    except RequestError:
        return True


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Keep other runs out of a folder for a while; one that is killed lets go of it.

    What is given is the descriptor that holds the lock: a child that inherits it keeps others out when its parent is
    killed.

    Raises:
        RequestError: Another run is there, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RequestError(f"cannot write to {folder}: {one_line(error)}; choose another folder") from error
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RequestError(f"another run writes to {folder}; wait for it, or choose another folder") from None
        except OSError:
            pass  # a file system without locks
        yield held
    finally:
        os.close(held)
