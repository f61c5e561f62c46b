"""Settings by the whole names of their fields, `judge.model`; those fields as rows for the documentation; addresses.

>>> from closedbook.harness.judge.settings import JudgeSettings
>>> next(row for row in field_rows(JudgeSettings) if row.name == "timeout")
FieldRow(name='timeout', values='number above 0', default='60.0', meaning='Seconds that one call may take')
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel

WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


class FieldRow(NamedTuple):
    """One field.

    Attributes:
        name: With the section that it is in: `save.every`.
        values: What it may be, in words.
        default: As JSON; empty where the field has to be stated, and for a section.
        meaning: What it does.
    """

    name: str
    values: str
    default: str
    meaning: str


def field_rows(model: type[BaseModel], closed: Collection[str] = ()) -> list[FieldRow]:
    """The fields of a model in their order, those of a section after it; not of a section that is `closed`."""
    schema = model.model_json_schema()
    return list(_rows(schema, schema.get("$defs", {}), "", closed))


def _rows(
    schema: Mapping[str, Any], known: Mapping[str, Any], prefix: str, closed: Collection[str]
) -> Iterator[FieldRow]:
    for name, field in schema["properties"].items():
        section = next((known[form["$ref"].rpartition("/")[2]] for form in _forms(field) if "$ref" in form), None)
        default = json.dumps(field["default"]) if "default" in field else ""
        shown = "" if section and default != "null" else default
        yield FieldRow(prefix + name, _values(field), shown, field.get("description", ""))
        if section and name not in closed:
            yield from _rows(section, known, f"{prefix}{name}.", closed)


def _forms(field: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(field.get("anyOf", [field]))


def _values(field: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words."""
    return _either([value for form in _forms(field) for value in _of_form(form)])


def _of_form(form: Mapping[str, Any]) -> list[str]:
    if "$ref" in form:
        return ["section"]
    if "enum" in form or "const" in form:
        choices = form.get("enum", [form.get("const")])
        return [choice if isinstance(choice, str) else json.dumps(choice) for choice in choices]
    if form.get("type") == "array":
        return [f"list of {_values(form['items'])}"]
    if form.get("type") == "object":
        return [f"mapping of names to {_values(form['additionalProperties'])}"]
    bounds = [f"{word} {form[key]:g}" for key, word in BOUNDS.items() if key in form]
    return [" ".join([WORDS[form["type"]], *bounds])]


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their whole names, without the addresses of servers."""
    return {
        name: value for name, value in flat(settings).items() if name.rpartition(".")[2] not in ("server", "base_url")
    }


def address(url: str) -> str:
    """The address of a server, which messages may show and results may hold.

    Raises:
        ValueError: It is none, or holds what nobody may read; the message does not repeat it.
    """
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:  # its message may quote a password
        whole = False
    if not whole:
        raise ValueError("is no address such as http://127.0.0.1:8000/v1") from None
    if parts.username or parts.password or parts.query:
        raise ValueError("holds a user, a password or a query, which would be written to results; use OPENAI_API_KEY")
    return url


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings with those of sections by their whole names, `judge.model`."""
    whole: dict[str, Any] = {}
    for name, value in settings.items():
        whole |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return whole


class Difference(NamedTuple):
    """A setting that is not the same twice."""

    name: str
    first: Any
    second: Any


def difference(first: Mapping[str, Any], second: Mapping[str, Any], but: Collection[str] = ()) -> Difference | None:
    """The first setting in which two differ, by its whole name; None where all are alike.

    >>> difference({"model": "a", "judge": {"kind": "rules"}}, {"model": "b", "judge": {"kind": "vllm"}}, ["model"])
    Difference(name='judge.kind', first='rules', second='vllm')
    """
    one, other = flat(first), flat(second)
    names = sorted((one.keys() | other.keys()) - {*but})
    found = (Difference(name, one.get(name), other.get(name)) for name in names)
    return next((each for each in found if each.first != each.second), None)
