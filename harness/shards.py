"""Shards: the parts of a task's questions that processes draw samples of, each alone, where none of them knows another.

Shard 2/3 has the second question of every three. What surprises: a shard of more questions begins with that of fewer,
so that a folder takes further questions whether or not it is a shard's.

    >>> parse_shard("2/3").part("abcdefgh")
    ('b', 'e', 'h')
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from closedbook.harness.errors import RequestError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts.

    Attributes:
        number: Which one, counted from 1.
        of: How many there are.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        """Refuse what is none."""
        if not 1 <= self.number <= self.of:
            raise ValueError(f"there is no shard {self}")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def part(self, every: Sequence[T]) -> tuple[T, ...]:
        """What of all is in it, in order."""
        return tuple(every[self.number - 1 :: self.of])


def parse_shard(text: str) -> Shard:
    """A shard as people write it.

    Raises:
        RequestError: It is none.
    """
    number, _, of = text.partition("/")
    try:
        return Shard(int(number), int(of))
    except ValueError:
        raise RequestError(f"--shard {text!r} is no I/N; the shards of 3 are 1/3, 2/3 and 3/3") from None


class Sharding(NamedTuple):
    """What a folder says of the shard that it holds.

    Attributes:
        shard: Which one.
        every: Ids of the questions of all shards, in order.
    """

    shard: Shard
    every: tuple[str, ...]

    def stated(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"number": self.shard.number, "of": self.shard.of, "every": list(self.every)}


def read_sharding(stated: Mapping[str, Any]) -> Sharding:
    """What `stated` gave.

    Raises:
        KeyError, TypeError, ValueError: It is something else.
    """
    return Sharding(Shard(int(stated["number"]), int(stated["of"])), tuple(map(str, stated["every"])))
