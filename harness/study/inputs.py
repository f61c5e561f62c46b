"""What an analysis was made from: the folders that it read, with digests of what decides its figures.

What surprises: the digest of an evaluation is that of its answers as they lie there, since every figure is counted
from them; the digest of samples and probabilities is that of all that they depend on, as their head has it.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from closedbook.harness.compare import last_written
from closedbook.harness.errors import RequestError
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.study.tables import Input

DROPPED = ("--json",)  # from a command line: what changes no figure
DROPPED_WITH_VALUE = ("--out",)
ADDRESS = re.compile(r"https?://[^\s'\",}\]]*")
WHOLE_PATH = re.compile(r"(?:(?<=[=\s'\"{\[(,:])|^)/[^'\",}\]]*")  # a path may hold spaces


def shown_path(path: Path | str) -> str:
    """A path for others to read: a relative one as it is, one below this folder from here, else its last two parts."""
    whole = Path(path)
    if not whole.is_absolute():
        return str(path)
    here = Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else "/".join(whole.parts[-2:])


def command_line(arguments: Sequence[str]) -> str:
    """A command line as it can be given again: quoted, without machine paths, addresses and what changes no figure.

    >>> command_line(["analyze", "majority", "runs/a b", "--out", "x", "--json", "-n", "8"])
    "closedbook analyze majority 'runs/a b' -n 8"
    """
    return shlex.join(["closedbook", *(_shown(word) for word in _without_out(arguments) if word not in DROPPED)])


def _without_out(arguments: Iterable[str]) -> Iterator[str]:
    """The words of a command but for where it writes."""
    values = iter(arguments)
    for value in values:
        if value in DROPPED_WITH_VALUE:
            next(values, None)
        elif not value.startswith(tuple(f"{name}=" for name in DROPPED_WITH_VALUE)):
            yield value


def _shown(value: str) -> str:
    """A word of a command without what is nobody's business: machine paths and addresses of servers, wherever in it."""
    return WHOLE_PATH.sub(lambda found: shown_path(found[0]), ADDRESS.sub("URL", value))


def inputs(folders: Iterable[Path]) -> list[Input]:
    """Folders of runs that were read, each once."""
    found = ((folder, digest_of(folder)) for folder in dict.fromkeys(folders))
    return [Input(shown_path(folder), digest) for folder, digest in found if digest]


def model_input(model: str, identity: str) -> Input:
    """A model that was read, as people name it and as `model_digest` does."""
    return Input(shown_path(model), identity.rpartition("@")[2][:16])


def digest_of(folder: Path) -> str | None:
    """The digest of a folder of samples, of probabilities or of an evaluation, 16 hexadecimal digits; else None."""
    from closedbook.harness.study.likelihood import MassStore

    for store in (SampleStore(folder), MassStore(folder)):
        if (folder / store.file).is_file():
            try:
                return store.head().digest
            except RequestError:
                return None
    files = last_written(folder)
    if not files:
        return None
    digest = hashlib.sha256()
    for task, path in sorted(files.items()):
        digest.update(f"{task}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
