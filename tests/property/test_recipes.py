"""Laws of recipes: a step is shared exactly or refused with numbers that work, and a resolved recipe reads back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from closedbook.harness.errors import RequestError
from closedbook.training.batches import resolve
from closedbook.training.recipes import Recipe, inline, load_recipe, recipe_names, to_yaml

QUESTIONS, ROLLOUTS, DEVICES = st.integers(1, 200), st.integers(2, 16), st.integers(1, 72)
STATED = st.none() | st.integers(1, 72)
FIX = re.compile(r"(\d+) (?:or (\d+) )?devices|(questions|micro_batch)=(\d+)")


def recipe_of(questions: int, rollouts: int, micro_batch: int | None, method: str = "grpo") -> Recipe:
    base = {"grpo": "grpo_cpu", "sft": "sft_cpu"}[method]
    fields = {"questions": questions, "rollouts": rollouts, "micro_batch": micro_batch}
    return load_recipe(base).model_copy(update=fields)


def fixes(message: str) -> list[dict[str, int]]:
    """Every change that a refusal proposes."""
    proposed = re.split(r"; use ", message)[1]
    found: list[dict[str, int]] = []
    for one, other, field, value in FIX.findall(proposed):
        found += [{field: int(value)}] if field else [{"devices": int(count)} for count in (one, other) if count]
    return found


@given(QUESTIONS, ROLLOUTS, DEVICES, STATED, st.sampled_from(["grpo", "sft"]))
def test_a_step_is_exact_or_refused_with_numbers_that_work(
    questions: int, rollouts: int, devices: int, micro_batch: int | None, method: str
) -> None:
    step = questions * (rollouts if method == "grpo" else 1)
    recipe = recipe_of(questions, rollouts, micro_batch, method)
    try:
        batch = resolve(recipe, devices)
    except RequestError as error:
        assert step % (devices * (micro_batch or 1))
        proposed = fixes(str(error))
        assert proposed
        # a micro-batch that fits no share of the step is a mistake of its own, told once the devices are right
        assume(micro_batch is None or step % micro_batch == 0)
        for change in proposed:
            count = change.pop("devices", devices)
            assert resolve(recipe.model_copy(update=change), count)
    else:
        assert batch.devices * batch.micro_batch * batch.accumulation == batch.step == step
        assert batch.devices == devices
        assert batch.micro_batch == (micro_batch or batch.micro_batch)


@given(QUESTIONS, ROLLOUTS, DEVICES, st.integers(1, 72))
def test_two_corrections_are_always_enough(questions: int, rollouts: int, devices: int, micro_batch: int) -> None:
    recipe = recipe_of(questions, rollouts, micro_batch)
    for _ in range(2):
        try:
            resolve(recipe, devices)
        except RequestError as error:
            change = fixes(str(error))[0]
            devices = change.pop("devices", devices)
            recipe = recipe.model_copy(update=change)
    resolve(recipe, devices)


@given(QUESTIONS, ROLLOUTS, st.integers(1, 8))
def test_a_step_is_the_same_however_it_is_shared(questions: int, rollouts: int, generation_steps: int) -> None:
    recipe = recipe_of(questions, rollouts, None).model_copy(update={"generation_steps": generation_steps})
    step = questions * rollouts
    for devices in (count for count in range(1, 9) if step % count == 0):
        batch = resolve(recipe, devices)
        assert (batch.step, batch.generated) == (step, step * generation_steps)


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**31),
        "learning_rate": st.floats(1e-9, 1.0),
        "epochs": st.integers(1, 99),
        "max_steps": st.none() | st.integers(1, 10**6),
        "micro_batch": st.none() | st.integers(1, 64),
        "judge.concurrency": st.integers(1, 99),
        "lora.rank": st.integers(1, 64),
        "chat": st.sampled_from(["auto", "true", "false"]),
    },
)


@given(st.sampled_from(recipe_names()), CHANGES)
def test_a_resolved_recipe_reads_back_as_itself(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: dict[str, object]
) -> None:
    overrides = [f"{field}={'null' if value is None else value}" for field, value in changes.items()]
    recipe = load_recipe(name, overrides)
    path = tmp_path_factory.mktemp("resolved") / "recipe.yaml"
    path.write_text(to_yaml(recipe))
    assert load_recipe(str(path)) == recipe


WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Cn", "Co"], exclude_characters="\ufeff")
)


@given(WORDS)
def test_a_text_is_read_as_it_was_written_alone_and_in_a_section(text: str) -> None:
    changes = [f"output_dir={inline(text)}", f"subset={inline({'ids': f'/{text}', 'random': True})}"]
    recipe = load_recipe("grpo_cpu", changes)
    assert recipe.output_dir == text and recipe.subset and recipe.subset.random
    assert recipe.subset.ids == str(Path(f"/{text}"))


@pytest.mark.parametrize(
    "text", ["1", "1e-6", "null", "true", "a #b", "'it", "a, b", "{", "", " a", "2020-01-01", "---"]
)
def test_what_yaml_would_read_otherwise_is_quoted(text: str) -> None:
    assert inline(text) == json.dumps(text)


@pytest.mark.parametrize("text", ["runs/x", "/a/b-c_d.e", "Qwen/Qwen2.5-7B", "mit Leerzeichen", "https://a/v1"])
def test_plain_words_stay_plain(text: str) -> None:
    assert inline(text) == text
