"""docs/recipes.md: what a recipe may say, made from the code that reads it.

`closedbook recipes --page > docs/recipes.md` writes it; a test holds the committed one to what the code gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from closedbook.harness.fields import FieldRow, field_rows
from closedbook.training.recipe_fields import METHODS, Recipe, reads
from closedbook.training.recipes import recipe_names, recipes_dir, study_names
from closedbook.training.study_recipe import Study

INTRODUCTION = """\
# Recipes
<!-- Made by `closedbook recipes --page`. -->

A recipe is one experiment, written as YAML: `field: value`, a section as a mapping. `--config` takes the name of one
that ships with closedbook, or the path of a file. Make your own from a shipped one, with all that it states:

```
closedbook recipes grpo_cpu > mine.yaml
closedbook train grpo --config mine.yaml
```

or state only what differs; `base` is a name, or a path beside the file:

```
base: grpo_cpu
learning_rate: 1e-5
validation: {every: 8}
```

`key=value` on the command line wins over both, and a dot leads into a section: `max_steps=2 judge.model=NAME`. A
section is merged with the base's; everything else is replaced. One word may stand for a section (`judge: rules`,
`vllm: colocate`) or a list (`benchmarks: popqa`). A field that is unknown, or that the method does not read, is
refused.

The run's folder holds the resolved recipe as `recipe.yaml`, which is a recipe again. `--dry-run` says what a run
would take.

## Shipped recipes
Names are METHOD_SIZE: `cpu` for two cores, `gpu_small` for one small GPU, `paper` for the study's own setting."""
SUBSET = """\
Paths in a recipe are relative to its folder, those on the command line to the current one. The ids of a benchmark's
train questions, with the questions:

```
python -c "from closedbook.harness.manifests import load_questions as load
for question in load('popqa', 'train'): print(question.id, question.question)"
```

A file of buckets is parquet or JSON Lines with the columns `id` and `bucket`."""
STUDIES = """\
## Studies
A study is a recipe for `closedbook reproduce`: models, benchmarks, methods by the recipes above, and what is analysed
([study.md](study.md)). `key=value` changes it as it changes a recipe, and `null` leaves something out:
`models.smollm2=null models.mine=my/checkpoint`."""
FIELDS = """\
## Fields
`closedbook recipes --fields` prints them. A field without a default has to be stated, except `name`, which is then
the file's. Where `beta` is read, it has to be stated too."""
JUDGE = """\
The settings of `judge` are those of every judge: [judge.md](judge.md), or `closedbook judge settings`. A recipe holds
no key, and where it is silent the environment speaks."""


def shipped_recipes() -> dict[str, str]:
    """The recipes of the package, with what each says of itself in its first line."""
    return _first_lines(recipe_names())


def shipped_studies() -> dict[str, str]:
    """The same of the studies."""
    return _first_lines(study_names())


def _first_lines(names: Sequence[str]) -> dict[str, str]:
    texts = {name: (recipes_dir() / f"{name}.yaml").read_text(encoding="utf-8") for name in names}
    return {name: text.partition("\n")[0].removeprefix("#").strip() for name, text in texts.items()}


def recipe_rows() -> list[FieldRow]:
    """Every field of a recipe, but those of the judge."""
    return field_rows(Recipe, closed=["judge"])


def read_by(field: str) -> str:
    """The methods that read a field, or `all`."""
    readers = [method for method in METHODS if reads(method, field.partition(".")[0])]
    return "all" if len(readers) == len(METHODS) else ", ".join(readers)


def recipe_page() -> str:
    """The page, as Markdown."""
    recipes = _table(["recipe", "what"], [[f"`{name}`", what] for name, what in shipped_recipes().items()])
    parts = [INTRODUCTION, recipes, FIELDS, _fields("")]
    sections = dict.fromkeys(row.name.partition(".")[0] for row in recipe_rows() if "." in row.name)
    for section in sections:
        parts += [f"### {section}", _fields(section), *([SUBSET] if section == "subset" else [])]
    studies = _table(["study", "what"], [[f"`{name}`", what] for name, what in shipped_studies().items()])
    rows = [
        [f"`{row.name}`", row.values, f"`{row.default}`" if row.default else "", row.meaning] for row in study_rows()
    ]
    fields = _table(["field", "values", "default", "what"], rows)
    return "\n\n".join([*parts, "### judge", JUDGE, STUDIES, studies, fields]) + "\n"


def study_rows() -> list[FieldRow]:
    """Every field of a study, but those of the judge."""
    return field_rows(Study, closed=["judge"])


def _fields(section: str) -> str:
    rows = [row for row in recipe_rows() if row.name.rpartition(".")[0] == section]
    return _table(
        ["field", "values", "default", "read by", "what"],
        [[f"`{r.name}`", r.values, f"`{r.default}`" if r.default else "", read_by(r.name), r.meaning] for r in rows],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])
