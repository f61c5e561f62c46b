"""Recipes: an experiment on one page, checked before anything is spent.

A recipe is YAML, found by path or, where it ships with the package, by its bare name. It may name another one as its
`base` and state only what differs; `key=value` on the command line wins over both. What surprises: a variant that
changes the method leaves behind what only the old method reads, so that `base: grpo_cpu, method: sft` is a whole
recipe; but a field that is stated beside a method which does not read it is refused, because a line without effect
misleads whoever reads the recipe.

    >>> load_recipe("grpo_cpu", ["questions=4", "judge.concurrency=8"]).questions
    4
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache, reduce
from pathlib import Path
from typing import Any, ClassVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from closedbook.harness.errors import RequestError, one_line
from closedbook.harness.fields import flat
from closedbook.harness.judge.settings import JudgeSettings, judge_settings
from closedbook.training.recipe_fields import MAY_CHANGE, METHODS, Recipe, meant, reads

__all__ = ["Recipe", "load_recipe", "recipe_names", "study_names", "to_yaml"]

# What other tools call it.
ALIASES = {
    "batch_size": "questions",
    "train_batch_size": "questions",
    "dataset": "benchmarks",
    "tasks": "benchmarks",
    "lr": "learning_rate",
    "n": "rollouts",
    "num_generations": "rollouts",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "micro_batch",
    "max_completion_length": "max_new_tokens",
    "max_prompt_length": "max_prompt_tokens",
    "kl_coef": "beta",
    "scale_rewards": "advantages",
    "importance_sampling_level": "importance",
    "use_vllm": "vllm",
}

# Sections that one word can stand for, and lists that one word can.
_ONE_WORD = {"judge": "kind", "vllm": "mode"}
_LISTS = ("benchmarks", "report_to")

_Quick: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, in C where that was built


class _Loader(_Quick):  # type: ignore[misc]
    """Plain YAML in which, as in YAML 1.2, 1e-6 is a number, 010 and `off` are words; and a key stands once."""

    yaml_implicit_resolvers: ClassVar[dict[Any, list[Any]]] = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith((":bool", ":int"))]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]} is stated twice", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Plain YAML in which a word stands in quotes if `_Loader` or another reader took it for something else."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9]\d*)$"), list("-+0123456789"))
for _reads in (_Loader, _Dumper):
    _reads.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def recipes_dir() -> Path:
    """Where the recipes of the package lie."""
    return Path(__file__).parent


def recipe_names() -> list[str]:
    """Names of the training recipes of the package, sorted."""
    return sorted(name for name in _shipped() if not name.startswith("study_"))


def study_names() -> list[str]:
    """Names of the package's recipes of whole studies, sorted."""
    return sorted(name for name in _shipped() if name.startswith("study_"))


def _shipped() -> list[str]:
    return [path.stem for path in recipes_dir().glob("*.yaml")]


def load_recipe(name: str, overrides: Sequence[str] = (), method: str | None = None) -> Recipe:
    """A recipe, with its bases and overrides applied, checked.

    Args:
        name: Path of a YAML file, or the bare name of a recipe of the package.
        overrides: `key=value`, the value as in YAML; a dot leads into a section, `judge.model=NAME`. Later ones win.
        method: The method that was asked for; None for any.

    Raises:
        RequestError: No such recipe, or it is wrong: one line with the field and what to do.
    """
    recipe = check_recipe(read_layers(name, overrides))
    if method is not None and recipe.method != method:
        raise RequestError(f"recipe {recipe.name} is for {recipe.method}; run `closedbook train {recipe.method}`")
    return recipe


def read_layers(
    name: str, overrides: Sequence[str] = (), names: Callable[[], list[str]] = recipe_names
) -> dict[str, Any]:
    """What a recipe states, with its bases and overrides applied, unchecked; its name is the file's unless stated.

    Args:
        name: As `load_recipe` takes it.
        overrides: As `load_recipe` takes them.
        names: Those of the package that are told where there is none of this name.

    Raises:
        RequestError: No such recipe, or it cannot be read.
    """
    path = _find(name, names=names)
    layers = list(_layers(path))
    layers[-1].setdefault("name", path.stem)
    return reduce(_overlay, [*layers, *(_anchored(_override(text), Path.cwd()) for text in overrides)])


def _find(name: str, beside: Path | None = None, names: Callable[[], list[str]] = recipe_names) -> Path:
    """The file of a recipe; a path in a recipe is relative to its folder."""
    if Path(name).suffix in (".yaml", ".yml") or len(Path(name).parts) > 1:
        return (beside or Path()) / Path(name).expanduser()
    if name not in _shipped():
        raise RequestError(f"no recipe {name!r}; {meant(name, names())}; or name a YAML file")
    return recipes_dir() / f"{name}.yaml"


def _layers(path: Path, below: tuple[Path, ...] = ()) -> Iterator[dict[str, Any]]:
    """What a recipe and its bases state, the lowest base first."""
    path = path.resolve()
    if path in below:
        raise RequestError(
            f"recipe {path.name}: base: it is its own base, by way of {below[-1].name}; name another one"
        )
    try:
        stated = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read recipe {path}: {one_line(error)}; name a YAML file or a recipe") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RequestError(f"recipe {path} is no YAML: {one_line(error)}; write key: value, one a line") from None
    if not isinstance(stated, dict) or not all(isinstance(key, str) for key in stated):
        raise RequestError(f"recipe {path} is no mapping; write key: value, one a line")
    if (base := stated.pop("base", None)) is not None:
        yield from _layers(_find(str(base), path.parent), (*below, path))
    yield _anchored(stated, path.parent)


def _anchored(stated: dict[str, Any], folder: Path) -> dict[str, Any]:
    """With the files of a subset as whole paths: in a recipe they are relative to its folder."""
    if not isinstance(subset := stated.get("subset"), dict):
        return stated
    files = {name: subset[name] for name in ("ids", "buckets") if isinstance(subset.get(name), str)}
    return stated | {"subset": subset | {name: str(folder / Path(file).expanduser()) for name, file in files.items()}}


def _override(text: str) -> dict[str, Any]:
    """The mapping that `a.b=value` stands for."""
    key, equals, value = text.partition("=")
    *sections, last = key.strip().split(".")
    try:
        parsed = yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        equals = ""
    if not equals or not all((*sections, last)):
        raise RequestError(
            f"override {text!r} is not understood; write key=value, such as max_steps=2 or judge.model=M"
        )
    return reduce(lambda inner, section: {section: inner}, reversed(sections), {last: parsed})


def inline(value: Any) -> str:
    """A value as `key=value` takes it: words that YAML reads as they stand are plain, and all else is JSON."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {inline(of)}' for name, of in value.items())}}}"
    return value if isinstance(value, str) and _is_plain(value) else json.dumps(value, ensure_ascii=False)


@cache
def _is_plain(text: str) -> bool:
    try:
        return [yaml.load(form, _Loader) for form in (text, f"[{text}]")] == [text, [text]]
    except (yaml.YAMLError, ValueError):
        return False


def _overlay(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`lower` changed by `upper`; sections are merged, everything else replaced.

    What only the lower layer's method reads is left behind when the method changes, and so is beta, which means
    something else to each method.
    """
    method = upper.get("method")
    if method in METHODS and lower.get("method", method) != method:
        kept = (key for key in lower if key != "beta" and reads(method, key))
        lower = {key: lower[key] for key in kept}
    return _merged(lower, upper)


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        under = merged.get(key)
        if isinstance(under, str) and key in _ONE_WORD:
            under = {_ONE_WORD[key]: under}
        merged[key] = _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def check_recipe(stated: Mapping[str, Any]) -> Recipe:
    """The recipe that a mapping states, as YAML gives it; `name` must be in it.

    Raises:
        RequestError: An unknown field, a wrong value or an impossible combination, named in one line.
    """
    where = f"recipe {stated.get('name')}"
    stated = {key: _spelled_out(key, value) for key, value in stated.items()}
    method = stated.get("method")
    if useless := next((key for key in stated if method in METHODS and not reads(method, key)), None):
        raise RequestError(f"{where}: {useless}: {method} does not read it; remove the line")
    judge = stated.get("judge")
    if isinstance(judge, Mapping) and (leaked := [name for name in judge if "key" in str(name).lower()]):
        raise RequestError(f"{where}: judge.{leaked[0]}: would be written to results; set OPENAI_API_KEY instead")
    try:
        return Recipe.model_validate(stated)
    except ValidationError as error:
        raise RequestError(f"{where}: {_explained(error)}") from None


def _spelled_out(key: str, value: Any) -> Any:
    """A section or a list for the one word that stands for it."""
    if isinstance(value, str):
        return {_ONE_WORD[key]: value} if key in _ONE_WORD else [value] if key in _LISTS else value
    if key == "lora" and isinstance(value, Mapping) and isinstance(value.get("target_modules"), str):
        return {**value, "target_modules": [value["target_modules"]]}
    return value


def _explained(error: ValidationError) -> str:
    """The first thing that is wrong, on one line: field, problem, what to do. Unknown fields come first."""
    first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    location = [part for part in first["loc"] if isinstance(part, str)]  # the place in a list says little
    field = ".".join(location)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{field}: no such field; {_field_meant(location)}"
    if first["type"] == "value_error":
        return f"{field}: {message}" if field else message
    if first["type"] == "model_type":
        return f"{field}: is a section, not {first['input']!r}; give some of {', '.join(_fields(location))}"
    about = _fields(location[:-1]).get(location[-1], "")
    meaning = f"; it is: {about}" if about else ""
    if first["type"] == "missing":
        return f"{field}: is not stated; add it{meaning}"
    return f"{field}: {message}; got {first['input']!r}{meaning}"


def _fields(section: Sequence[str]) -> dict[str, str]:
    """Fields of a section, with what they are; none for what is no section."""
    model: Any = Recipe
    for name in section:
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        kinds = (annotation, *get_args(annotation))
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if model is None:
            return {}
    return {name: field.description or "" for name, field in model.model_fields.items() if name != "api_key"}


def _field_meant(location: Sequence[str]) -> str:
    """What to write for an unknown field: the nearest one of its section, or the whole list."""
    *section, wrong = location
    prefix = "".join(f"{name}." for name in section)
    known = {name: f"{prefix}{name}" for name in _fields(section)}
    if not section:
        known |= {f"{part}_{name}": f"{part}.{name}" for part in Recipe.model_fields for name in _fields([part])}
        known |= ALIASES
    near = get_close_matches(wrong.replace("-", "_"), known, n=1)
    return f"did you mean {known[near[0]]}?" if near else f"there are {', '.join(_fields(section))}"


def to_yaml(recipe: Recipe) -> str:
    """The recipe as YAML that `load_recipe` reads: every field that its method reads, and the judge as stated.

    What the environment adds to the judge is not in it, and no key ever is.
    """
    return as_yaml(_stated(recipe))


def _stated(recipe: Recipe) -> dict[str, Any]:
    fields = {name for name in Recipe.model_fields if reads(recipe.method, name)}
    judge = {"kind": recipe.judge.kind} | recipe.judge.model_dump(mode="json", exclude_unset=True)
    return recipe.model_dump(mode="json", include=fields) | {"judge": judge}


def as_yaml(stated: Mapping[str, Any]) -> str:
    """A mapping as YAML, which `read_layers` reads as it is."""
    return str(yaml.dump(stated, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def published(recipe: Recipe) -> dict[str, Any]:
    """The recipe as it goes with a checkpoint, which may be given away: no servers' addresses, no local folders."""
    stated = _stated(recipe)
    stated.pop("output_dir")
    for name in ("base_url", "cache"):
        stated["judge"].pop(name, None)
    stated.get("vllm", {}).pop("url", None)
    if recipe.subset:
        files = {name: getattr(recipe.subset, name) for name in ("ids", "buckets")}
        stated["subset"] |= {name: Path(file).name for name, file in files.items() if file}
    return stated


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ, `name: before, now that`, but for those of a recipe that may."""
    old, new = flat(before), flat(now)
    names = [name for name in {**old, **new} if name not in MAY_CHANGE and old.get(name) != new.get(name)]
    return [f"{name}: {old.get(name)}, now {new.get(name)}" for name in names]


def judge_of(recipe: Recipe) -> JudgeSettings:
    """The judge of a recipe. Where the recipe is silent the environment speaks: address, prices, and the key.

    Raises:
        RequestError: A judge without model, address or key.
    """
    stated = recipe.judge.model_dump(exclude_unset=True) | {"kind": recipe.judge.kind}
    return judge_settings({"judge": stated}, default="rules")
