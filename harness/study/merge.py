"""`closedbook sample-merge`: shards of `closedbook sample` become one folder, as if one process had drawn it all.

A sample depends on its question and number and not on who else is drawn, so joining is all there is to do. What
surprises: shards are joined only when all of them are there and whole, so that a figure is never one of some questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from closedbook.harness.errors import RequestError
from closedbook.harness.fields import difference
from closedbook.harness.files import alone
from closedbook.harness.pass_at_k import passes
from closedbook.harness.sample_store import Head, SampleStore
from closedbook.harness.samples import QuestionSamples, count, joined
from closedbook.harness.shards import Shard, Sharding
from closedbook.harness.study.sample import Drawn


class _Part(NamedTuple):
    """A folder with one shard."""

    store: SampleStore
    head: Head
    sharding: Sharding


def merge(out: Path, folders: Sequence[Path]) -> Drawn:
    """Join shards; what the folder holds already stays.

    Args:
        out: The folder of all samples; it need not be there.
        folders: Of all shards, in any order.

    Raises:
        RequestError: A shard is missing, stands there twice, is of another run or is not whole, or the folder holds
            something else; nothing is written then.
        WorkError: The folder cannot be written.
    """
    parts = [_part(folder) for folder in folders]
    for part in parts[1:]:
        _require_one_run(parts[0], part)
    _require_each_once(parts)
    found = {line.id: line for part in parts for line in part.store.complete()}
    head = Head(parts[0].head.settings, parts[0].head.n, parts[0].sharding.every)
    samples = _add(SampleStore(out), head, [found[id] for id in head.ids])
    judged = SampleStore(out).head().settings.get("judge") is not None
    return Drawn(out, samples, count(samples), passes(samples, head.n) if judged else ())


def _part(folder: Path) -> _Part:
    store = SampleStore(folder)
    head = store.head()
    if head.sharding is None:
        raise RequestError(f"{folder} is no shard: it was drawn without --shard; name the folders of shards alone")
    return _Part(store, head, head.sharding)


def _require_one_run(first: _Part, other: _Part) -> None:
    """Refuse a shard of something else, by what differs."""
    if (said := _unlike(first, other)) is not None:
        raise RequestError(
            f"{first.store.folder} and {other.store.folder} are no shards of one run: {said}; draw both with the same "
            "command but for --shard and --out"
        )


def _unlike(first: _Part, other: _Part) -> str | None:
    if first.sharding.shard.of != other.sharding.shard.of:
        return f"shard is '{first.sharding.shard}' and '{other.sharding.shard}'"
    if found := difference({**first.head.settings, "n": first.head.n}, {**other.head.settings, "n": other.head.n}):
        return f"{found.name} is {found.first!r} and {found.second!r}"
    one, two = first.sharding.every, other.sharding.every
    if one != two:
        return f"questions is {len(one)} and {len(two)}{' others' if len(one) == len(two) else ''}"
    return None


def _require_each_once(parts: Sequence[_Part]) -> None:
    """Refuse shards of one run that are not each of them once."""
    found: dict[int, Path] = {}
    for part in parts:
        shard, folder = part.sharding.shard, part.store.folder
        if shard.number in found:
            raise RequestError(f"{found[shard.number]} and {folder} are both shard {shard}; name each shard once")
        found[shard.number] = folder
    of = parts[0].sharding.shard.of
    if missing := [str(Shard(number, of)) for number in range(1, of + 1) if number not in found]:
        are = f"shard {missing[0]} is" if len(missing) == 1 else f"shards {', '.join(missing)} are"
        raise RequestError(
            f"{are} missing; name their folders too, or draw them: the same `closedbook sample`, --shard {missing[0]}"
        )


def _add(store: SampleStore, head: Head, lines: Sequence[QuestionSamples]) -> list[QuestionSamples]:
    """Put into a folder what it lacks of some samples, which are what comes back.

    Raises:
        RequestError: It holds something else.
    """
    with alone(store.folder):
        settings = _judged(store, head.settings)
        store.require(settings)
        known = store.read() if store.begun else {}
        whole = [joined([known.get(line.id, line), line]) for line in lines]
        if others := sum(line.doubled for line in whole):
            raise RequestError(
                f"{store.folder} holds other samples of {others} of the {len(lines)} questions; choose another folder"
            )
        if not _asks_for(store, head._replace(settings=settings)):
            store.begin(settings, head.ids, head.n)
        store.add(line for line, now in zip(lines, whole, strict=True) if known.get(line.id) != now)
    return [joined([line], head.n) for line in whole]


def _judged(store: SampleStore, settings: Any) -> Any:
    """Settings with the judge of samples that were merged before and then graded, where the shards have none."""
    if store.begun and settings.get("judge") is None:
        return {**settings, "judge": store.head().settings.get("judge")}
    return settings


def _asks_for(store: SampleStore, head: Head) -> bool:
    """Whether all that is to be in a folder was asked for there already."""
    if not store.begun:
        return False
    old = store.head()
    return old.settings == head.settings and old.n >= head.n and set(old.ids) >= set(head.ids)
