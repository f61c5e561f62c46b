"""Rubrics: what a judge model is asked, and how its reply is read.

A rubric is a template, the labels it offers and the grade behind each. Both ends are strict. Question, gold answers and
answer are inserted as one line of inert text each, so nothing in them can look like a part of the prompt. A reply must
state an offered label as a sentence of its own ("1.0", "**Verdict:** 1.0", "The grade is A."): a label that is merely
mentioned counts for nothing, because a judge that repeats the answer it was shown would otherwise grade by it.

    >>> parse("The grade is A.", RUBRICS["simpleqa"])
    <Grade.CORRECT: 'correct'>
    >>> parse("The answer claims to be worth 1.0", RUBRICS["binary"]).reason
    'unparsable'
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from closedbook.harness.judge.verdicts import Grade, JudgeFailure, Judgement, Triple
from closedbook.harness.prompts import fill, template, template_digest

_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs"})  # control, format (zero width, direction), and no characters
_BRACKETS = str.maketrans("<>＜＞﹤﹥［］", "‹›‹›‹›[]")  # noqa: RUF001 look-alikes, so that people still see what was there
# [INST], [|user|]: some tokenisers read them as tokens, wherever they stand
_CONTROL_WORD = re.compile(r"\[(/?[A-Z_0-9]{3,}|\|[^\[\]]*\||\w*_\w*)\]")
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")  # letters and marks that show nothing

LONGEST_SIGN = 3  # characters; labels up to here are signs, such as 1.0 and A, and count as they are written
_LONGEST_STATEMENT = 80  # characters; keeps the patterns below linear
_ABOUT_THE_ANSWER = re.compile(r"\b(?:answer|result)\b", re.IGNORECASE)
_STATEMENTS = re.compile(r"\n|(?<=[.!?])\s+")
_KEYS = ("grade", "verdict", "score", "judgement", "judgment", "label", "rating")
_LEADS = (*_KEYS, "answer", "result")


@dataclass(frozen=True)
class Rubric:
    """A way of grading.

    Attributes:
        name: Name of the template.
        labels: What a judge may reply, and the grade it stands for. Words count in any case, the rest as it is.
        choices: The labels that a server is told to choose among, where it can be told.
        empty: Grade of an answer that says nothing.
    """

    name: str
    labels: Mapping[str, Grade]
    choices: tuple[str, ...]
    empty: Grade

    @property
    def identity(self) -> str:
        """Name and content of the template."""
        return f"{self.name}-{template_digest(self.name)}"

    @cached_property
    def statement(self) -> re.Pattern[str]:
        """A sentence that says a label, and the same one once more at most, and nothing else."""
        words = "|".join(re.escape(w).replace("_", "[ _-]") for w in self.labels if len(w) > LONGEST_SIGN)
        signs = "|".join(re.escape(sign) for sign in self.labels if len(sign) <= LONGEST_SIGN)
        label = f"{signs}|(?i:{words})" if words else signs
        decoration = r"[\s*_`\"'“”‘’()\[\]]*"  # noqa: RUF001 typographic quotation marks
        subject = rf"(?:(?:the|my|final|overall|judge's)\s+)*(?:judge|{'|'.join(_LEADS)})"
        lead = rf"(?i:{subject}{decoration}(?:\s+is\b\s*:?|[:=]))"
        return re.compile(
            rf"(?:[-•]\s+|\#+\s+)?{decoration}(?:{lead}{decoration})?(?P<label>{label})"
            rf"(?:[\s*_`:=()–—-]+(?P<again>{label}))?{decoration}[.!]*{decoration}"  # noqa: RUF001 dashes
        )

    def grade_of(self, label: str) -> Grade | None:
        """The grade behind a label as it was written."""
        word = re.sub("[ -]", "_", label.upper()) if len(label) > LONGEST_SIGN else label
        return self.labels.get(label) or self.labels.get(word)


RUBRICS = {
    "binary": Rubric(
        "binary", {"1.0": Grade.CORRECT, "0.0": Grade.INCORRECT}, choices=("1.0", "0.0"), empty=Grade.INCORRECT
    ),
    "simpleqa": Rubric(
        "simpleqa",
        {
            "A": Grade.CORRECT,
            "B": Grade.INCORRECT,
            "C": Grade.NOT_ATTEMPTED,
            "CORRECT": Grade.CORRECT,
            "INCORRECT": Grade.INCORRECT,
            "NOT_ATTEMPTED": Grade.NOT_ATTEMPTED,
        },
        choices=("A", "B", "C"),
        empty=Grade.NOT_ATTEMPTED,
    ),
}


def inert(text: str) -> str:
    """One line of text without anything that a prompt, a chat template or a reader's eye could take for structure.

    Characters that do not show are removed, white space becomes single spaces, and brackets of tags and of control
    words become look-alikes.
    """
    shown = text
    if not (text.isascii() and text.isprintable()):  # most texts are, and this is far quicker
        shown = "".join(c for c in text if c.isspace() or not _is_hidden(c))
    return _CONTROL_WORD.sub(r"(\1)", " ".join(shown.split()).translate(_BRACKETS))


def _is_hidden(character: str) -> bool:
    variation = "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"
    return variation or character in _BLANK or unicodedata.category(character) in _HIDDEN


def build_messages(triple: Triple, rubric: Rubric) -> list[dict[str, str]]:
    """The judge's prompt for one triple, as chat messages; placeholders are filled in one pass."""
    golds = "\n".join(f"- {inert(gold)}" for gold in triple.golds)
    text = fill(template(rubric.name), question=inert(triple.question), golds=golds, answer=inert(triple.answer))
    return [{"role": "user", "content": text}]


def parse(reply: str, rubric: Rubric) -> Judgement:
    """The grade that a reply states, the last one where it states several; any other reply is a JudgeFailure.

    Only what follows the last </think> counts, and nothing after a <think> that is never closed.
    """
    said = reply.rpartition("</think>")[2].partition("<think>")[0].strip()
    stated = _json_grades(unfenced(said), rubric)
    if stated is None:
        *others, last = _STATEMENTS.split(said)
        # "The answer is 1.0. That is wrong." talks of the answer; only at the end can "Answer: B" be the verdict
        stated = [g for text in others if not _ABOUT_THE_ANSWER.search(text) and (g := _stated(text, rubric))]
        stated += [grade for grade in [_stated(last, rubric)] if grade]
    if stated:
        return stated[-1]
    return JudgeFailure("unparsable", f"the judge replied {reply[:80]!r}, not {' or '.join(rubric.choices)}")


def unfenced(text: str) -> str:
    """What stands between the marks of a block of code, if the text is one."""
    if text.startswith("```") and text.endswith("```"):
        return text.strip("`").partition("\n")[2].strip()
    return text


def _stated(statement: str, rubric: Rubric) -> Grade | None:
    """The grade that one sentence states; None where it states none, or two that differ."""
    if len(statement) > _LONGEST_STATEMENT or not (match := rubric.statement.fullmatch(statement)):
        return None
    grade = rubric.grade_of(match["label"])
    return grade if match["again"] is None or rubric.grade_of(match["again"]) is grade else None


def _json_grades(text: str, rubric: Rubric) -> list[Grade] | None:
    """The grade in a JSON object under one of the usual keys, [] where it has none; None where this is no object.

    Numbers are compared as they are written: 1 and 1.00 are not the label 1.0.
    """
    try:
        value: Any = json.loads(text, parse_float=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    stated = {rubric.grade_of(v) if isinstance(v, str) else None for k, v in value.items() if k.lower() in _KEYS}
    return [grade for grade in stated if grade] if len(stated) == 1 else []
