"""The page on recipes: made from the fields, and the committed one is what they make."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field

from closedbook.harness.fields import FieldRow, field_rows
from closedbook.training.recipe_fields import METHODS, Recipe
from closedbook.training.recipe_page import read_by, recipe_page, recipe_rows
from closedbook.training.recipes import recipe_names

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


class Smolt(BaseModel):
    tharn: int = Field(default=3, ge=1, description="Tharns")


class Gorlim(BaseModel):
    must: str
    share: float = Field(default=0.5, gt=0, lt=1)
    which: Literal["auto", True, False] = "auto"
    names: tuple[Literal["a", "b"], ...] = ("a",)
    none: Smolt | None = None
    some: Smolt = Smolt()
    most: int | None = Field(default=None, le=9)


def test_the_committed_page_is_what_the_fields_make():
    assert PAGE.read_text(encoding="utf-8") == recipe_page()


def test_the_page_names_every_recipe_and_every_field_that_a_saved_recipe_holds():
    page = recipe_page()
    assert all(f"| `{name}` | " in page for name in recipe_names())
    assert all(f"| `{name}` | " in page for name in Recipe.model_fields)


def test_a_field_is_told_with_its_bounds_its_choices_and_its_default():
    assert field_rows(Gorlim, closed=["none"]) == [
        FieldRow("must", "text", "", ""),
        FieldRow("share", "number above 0 below 1", "0.5", ""),
        FieldRow("which", "auto, true or false", '"auto"', ""),
        FieldRow("names", "list of a or b", '["a"]', ""),
        FieldRow("none", "section or null", "null", ""),
        FieldRow("some", "section", "", ""),
        FieldRow("some.tharn", "whole number from 1", "3", "Tharns"),
        FieldRow("most", "whole number to 9 or null", "null", ""),
    ]


@pytest.mark.parametrize("row", recipe_rows(), ids=lambda row: row.name)
def test_every_field_says_what_it_does_and_who_reads_it(row):
    assert row.meaning and row.values
    assert read_by(row.name) == "all" or set(read_by(row.name).split(", ")) < set(METHODS)


def test_a_field_of_a_section_is_read_by_those_who_read_the_section():
    assert read_by("vllm.url") == read_by("vllm") == "grpo"
