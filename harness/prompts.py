"""Prompts: one function for evaluation, sampling and training, so that all three see the same bytes.

Templates are text files, known by a digest of their content. Placeholders are filled in one pass over known names, so a
question that itself holds "{question}" or braces stays plain text. The same text serves chat models, as the user's
turn, and base models, as a document to continue; it therefore ends in a cue and never in a space.

    >>> question_prompt("who wrote hamlet", "direct").splitlines()[-1]
    'Answer:'
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Literal

__all__ = ["Style", "extract_answer", "messages", "question_prompt", "template_digest"]

Style = Literal["direct", "cot"]
"""Of a prompt: for the answer at once, or after a chain of thought."""

FINAL_ANSWER = re.compile(r"final answer\W*?:\s*(?P<answer>.*)", re.IGNORECASE)


@cache
def template(name: str) -> str:
    """The text of a template, without the newline that ends the file."""
    return (Path(__file__).parent / "templates" / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")


def template_digest(name: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a template: its version."""
    return hashlib.sha256(template(name).encode()).hexdigest()[:16]


def fill(text: str, **values: str) -> str:
    """A template with its placeholders filled in one pass; braces around other names are left as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def question_prompt(question: str, style: Style = "direct") -> str:
    """What a model is asked: the text for a base model, the content of the user's turn for a chat model."""
    return fill(template(style), question=question)


def messages(question: str, style: Style = "direct") -> list[dict[str, str]]:
    """The prompt as chat messages, without a system turn: the model's own template may add its default."""
    return [{"role": "user", "content": question_prompt(question, style)}]


def first_line(response: str) -> str:
    """The answer in a response to the direct prompt: its first line that is not empty.

    Base models go on after the answer, and some chat models start with empty lines; a stop string at the first newline
    would leave those without any answer.
    """
    return next((line.strip() for line in response.splitlines() if line.strip()), "")


def final_answer(response: str) -> str:
    """The answer in a response to the chain-of-thought prompt: what follows the last "Final answer:".

    Without the marker the last line that is not empty counts, since models forget the marker more often than the
    answer. Markdown emphasis around the answer is taken off.
    """
    marked = [answer for match in FINAL_ANSWER.finditer(response) if (answer := match["answer"].strip(" *_`"))]
    if marked:
        return marked[-1]
    lines = [line.strip(" *_`") for line in response.splitlines()]
    return next((line for line in reversed(lines) if line and not FINAL_ANSWER.match(line)), "")


def extract_answer(response: str, style: Style) -> str:
    """The answer in a response to the prompt of that style."""
    return final_answer(response) if style == "cot" else first_line(response)
