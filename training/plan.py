"""What a run would take, before it takes anything: steps, samples, tokens, judge calls, money, memory, files.

Nothing is loaded and nobody is asked, so a plan is made on any machine; of the model only config.json is read, if it is
there. Numbers of work are upper bounds; memory and money are estimates, and the lines for people say so.

    >>> from closedbook.training.recipes import load_recipe
    >>> plan(load_recipe("grpo_paper"), train_questions=10_000, devices=8).describe()[1]
    '624 optimiser steps of 128 questions x 5 rollouts; 8 epochs over 10,000 questions (16 left out, others each time)'
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from closedbook.harness.judge.cascade import KNOWN, VERDICT_TOKENS
from closedbook.harness.judge.chat import estimated_tokens
from closedbook.harness.judge.rubrics import RUBRICS, build_messages
from closedbook.training.batches import Batch, resolve, sampled_of, steps_of
from closedbook.training.recipe_fields import Recipe, reads

RECIPE_FILE = "recipe.yaml"
LOG_FILE = "log.jsonl"
SAMPLES = "samples"

ACTIVATION_BYTES = 34  # of one token in one layer, a unit of hidden size, in bfloat16: arXiv 2205.05198, equation 2


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What of a model's shape decides its memory; None where only its name is known.

    Attributes:
        parameters: Numbers in all weights, tied ones once.
        hidden: Width of a token's vector.
        kv_width: Width of the keys of one token in one layer, which is that of the values too.
        intermediate: Width inside the feed-forward part.
    """

    parameters: int
    layers: int | None = None
    hidden: int = 0
    kv_width: int = 0
    intermediate: int = 0

    def adapters(self, rank: int, modules: tuple[str, ...]) -> int:
        """Numbers in low-rank adapters of that rank; 0 where the shape is not known."""
        attention = {"q_proj": 2 * self.hidden, "o_proj": 2 * self.hidden}
        attention |= dict.fromkeys(("k_proj", "v_proj"), self.hidden + self.kv_width)
        widths = attention | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.hidden + self.intermediate)
        chosen = widths if "all-linear" in modules else modules
        return rank * (self.layers or 0) * sum(widths.get(name, 2 * self.hidden) for name in chosen)


# of harness.small_model, so that a plan needs no download
PACKAGED = {
    "smollm2": ModelSize(parameters=134_515_008, layers=30, hidden=576, kv_width=192, intermediate=1536),
    "gemma-270m": ModelSize(parameters=268_098_176, layers=18, hidden=640, kv_width=256, intermediate=2048),
    "qwen-0.5b": ModelSize(parameters=630_167_424, layers=24, hidden=896, kv_width=128, intermediate=4864),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device, with nothing sharded; FSDP and ZeRO-3 share the first four among the devices.

    Left out: what the framework itself takes, buffers of communication, fragmentation, logits (TRL computes them in
    tiles), and the generation of RFT and DPO before training and of validation. Expect a fifth more.

    Attributes:
        weights: The model, and with mixed precision the bfloat16 copies that are computed with.
        gradients: Of what is trained, in the type of the weights; adapters in float32.
        optimizer: Adam's two averages of each.
        reference: The model as it was, for a KL term or for DPO; with adapters it is the model without them.
        working: The larger of a micro-batch's activations and the rollouts' keys and values; None where the model's
            shape is not known. A colocated vLLM takes its `memory_share` of the device instead of the latter.
    """

    weights: int
    gradients: int
    optimizer: int
    reference: int
    working: int | None

    @property
    def total(self) -> int:
        """All that is known."""
        return self.weights + self.gradients + self.optimizer + self.reference + (self.working or 0)


@dataclass(frozen=True, slots=True)
class Output:
    """A file or folder that a run writes."""

    path: Path
    what: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of `recipe` would take.

    Attributes:
        train_questions: Questions to train on, after `subset`.
        steps: Optimiser steps; for rft and dpo at most, since they train on what the samples leave.
        rollouts: Samples drawn for training.
        tokens_sampled: Tokens of these with their prompts, at most.
        texts_trained: Prompts with their answers that are trained on, at most; a pair has two.
        tokens_trained: Tokens that gradients are computed for or on, at most; a reference model's are not counted.
        judge_calls: At most: every answer could be new, and one call tries the judge. 0 for rules.
        dollars: Estimated cost of these calls; None where the judge has no prices.
        memory: Estimate for one device; None where nothing is known of the model.
        outputs: What is written where.
    """

    recipe: Recipe
    batch: Batch
    train_questions: int
    steps: int
    rollouts: int
    tokens_sampled: int
    texts_trained: int
    tokens_trained: int
    judge_calls: int
    dollars: float | None
    memory: Memory | None
    outputs: tuple[Output, ...]

    @property
    def steps_at_most(self) -> bool:
        """Whether `steps` is an upper bound."""
        return self.recipe.method in ("rft", "dpo")

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON has it; the recipe with every field, and no key of a judge."""
        memory = asdict(self.memory) | {"total": self.memory.total} if self.memory else None
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "batch": asdict(self.batch) | {"step": self.batch.step},
            "train_questions": self.train_questions,
            "steps": self.steps,
            "steps_at_most": self.steps_at_most,
            "rollouts": self.rollouts,
            "tokens_sampled": self.tokens_sampled,
            "tokens_trained": self.tokens_trained,
            "judge_calls": self.judge_calls,
            "dollars": self.dollars,
            "memory": memory,
            "outputs": {str(output.path): output.what for output in self.outputs},
        }

    def describe(self) -> list[str]:
        """The plan as lines for people."""
        return [
            f"{self.recipe.name}: {self.recipe.method} of {self.recipe.model} on {', '.join(self.recipe.benchmarks)}",
            self._steps(),
            self._sharing(),
            self._tokens(),
            self._judging(),
            self._memory(),
            *(f"writes {output.path}: {output.what}" for output in self.outputs),
        ]

    def _steps(self) -> str:
        recipe = self.recipe
        each = f"{_count(recipe.questions, 'question')} x {recipe.rollouts} rollouts"
        size = (
            each
            if recipe.method == "grpo"
            else _count(recipe.questions, "pair" if recipe.method == "dpo" else "example")
        )
        most = "at most " if self.steps_at_most else ""
        rest = self.train_questions % (recipe.questions * self.batch.generation_steps) if recipe.method == "grpo" else 0
        left = f" ({rest} left out, others each time)" if rest else ""
        cap = f", capped by max_steps={recipe.max_steps}" if recipe.max_steps else ""
        return (
            f"{most}{_count(self.steps, 'optimiser step')} of {size}; {_count(recipe.epochs, 'epoch')} over "
            f"{_count(self.train_questions, 'question')}{left}{cap}"
        )

    def _sharing(self) -> str:
        batch = self.batch
        rounds = (
            f"; rollouts are drawn for {batch.generation_steps} steps at once" if batch.generation_steps > 1 else ""
        )
        return (
            f"a step on {_count(batch.devices, 'device')}: {batch.micro_batch} at once, "
            f"{_count(batch.accumulation, 'time')} each{rounds}"
        )

    def _tokens(self) -> str:
        drawn = f"{_count(self.rollouts, 'rollout')}, at most {self.tokens_sampled:,} tokens with their prompts; "
        return f"{drawn if self.rollouts else ''}at most {self.tokens_trained:,} tokens trained on"

    def _judging(self) -> str:
        judge = self.recipe.judge
        if not self.judge_calls:
            return "judge: rules, no calls"
        cost = "cost unknown: set judge.price_in and judge.price_out"
        if self.dollars is not None:
            cost = f"about ${self.dollars:,.2f}" + (f", ended at ${judge.budget:,.2f}" if judge.budget else "")
        return f"judge: {judge.model or judge.kind}, at most {_count(self.judge_calls, 'call')}, {cost}"

    def _memory(self) -> str:
        memory = self.memory
        if memory is None:
            return "memory: unknown, since neither the model's config.json is here nor its size in its name"
        parts = {"weights": memory.weights, "gradients": memory.gradients, "Adam": memory.optimizer}
        parts |= {"reference": memory.reference} if memory.reference else {}
        parts |= {"activations or cache": memory.working} if memory.working else {}
        shown = ", ".join(f"{name} {_gigabytes(size)}" for name, size in parts.items())
        by_name = "; by its name, without activations" if memory.working is None else ""
        share = self.recipe.vllm.memory_share
        engine = f"; vLLM takes {share:.0%} of the device besides" if self.recipe.vllm.mode == "colocate" else ""
        return f"memory: about {_gigabytes(memory.total)} a device if nothing is sharded ({shown}){by_name}{engine}"


def plan(
    recipe: Recipe,
    train_questions: int,
    devices: int,
    *,
    validation_questions: int = 0,
    prompt_tokens: int | None = None,
    size: ModelSize | None = None,
) -> Plan:
    """What a run would take.

    Args:
        recipe: Any.
        train_questions: Questions to train on, after `subset`.
        devices: Processes that train, over all nodes.
        validation_questions: Questions that validation can ask.
        prompt_tokens: Length of a prompt, if it is known; else the longest that the recipe allows.
        size: The model's; else it is looked up by `model_size`.

    Raises:
        RequestError: There is nothing to train on, or a step cannot be filled or shared equally.
    """
    batch = resolve(recipe, devices)
    sampled = sampled_of(recipe, train_questions)
    examples = _examples(recipe, train_questions, sampled)
    steps = steps_of(recipe, examples)
    rollouts = _rollouts(recipe, batch, steps, sampled)
    trained = _trained(recipe, batch, steps, examples)
    longest = (prompt_tokens or recipe.max_prompt_tokens) + recipe.max_new_tokens
    calls = _judge_calls(recipe, rollouts, steps, validation_questions)
    size = size or model_size(recipe.model)
    memory = _memory(recipe, batch, size) if size else None
    return Plan(
        recipe=recipe,
        batch=batch,
        train_questions=train_questions,
        steps=steps,
        rollouts=rollouts,
        tokens_sampled=rollouts * longest,
        texts_trained=trained,
        tokens_trained=trained * longest,
        judge_calls=calls,
        dollars=_dollars(recipe, calls),
        memory=memory,
        outputs=_outputs(recipe, memory),
    )


def _examples(recipe: Recipe, questions: int, sampled: int) -> int:
    """What an epoch goes through: questions (grpo), else examples or pairs, at most."""
    if recipe.method == "rft":
        return sampled * min(recipe.rollouts, recipe.examples or recipe.rollouts)
    if recipe.method == "dpo":
        pairs = recipe.rollouts // 2 * (recipe.rollouts - recipe.rollouts // 2)  # half of the samples right
        return sampled * min(pairs, recipe.examples or pairs)
    return questions


def _rollouts(recipe: Recipe, batch: Batch, steps: int, sampled: int) -> int:
    """Samples drawn for training; GRPO draws whole rounds."""
    if recipe.method == "grpo":
        return -(-steps // batch.generation_steps) * batch.generated
    return sampled * recipe.rollouts if reads(recipe.method, "rollouts") else 0


def _trained(recipe: Recipe, batch: Batch, steps: int, examples: int) -> int:
    """Sequences that are trained on; a pair has two, and the last step of an epoch may be smaller."""
    if recipe.method == "grpo":
        return steps * batch.step
    return min(steps * batch.step, recipe.epochs * examples) * (2 if recipe.method == "dpo" else 1)


def _judge_calls(recipe: Recipe, rollouts: int, steps: int, validation_questions: int) -> int:
    if recipe.judge.kind == "rules":
        return 0
    every, limit = recipe.validation.every, recipe.validation.limit
    validations = -(-steps // every) if every else 1  # the last one at the end
    asked = validations * min(validation_questions, limit or validation_questions)
    rewarded = rollouts if reads(recipe.method, "reward") and recipe.reward == "judge" else 0
    return asked + rewarded + 1


def _dollars(recipe: Recipe, calls: int) -> float | None:
    """About what so many calls cost: a short question, one gold answer, an answer of full length, a bare verdict."""
    judge = recipe.judge
    if not calls:
        return 0.0
    if not judge.priced:
        return None
    asked = estimated_tokens(build_messages(KNOWN, RUBRICS[judge.prompt])) + recipe.max_new_tokens
    return calls * (asked * judge.price_in + VERDICT_TOKENS * judge.price_out) / 1e6


def _memory(recipe: Recipe, batch: Batch, size: ModelSize) -> Memory:
    number = 2 if recipe.precision == "bfloat16" else 4
    model = size.parameters * number
    lora = recipe.lora
    trained = size.adapters(lora.rank, lora.target_modules) * 4 if lora else model
    frozen_twin = recipe.method == "dpo" or (recipe.method == "grpo" and recipe.beta > 0)
    return Memory(
        weights=model + (2 * size.parameters if recipe.precision == "mixed" else 0),
        gradients=trained,
        optimizer=2 * trained,
        reference=model if frozen_twin and not lora else 0,
        working=_working(recipe, batch, size),
    )


def _working(recipe: Recipe, batch: Batch, size: ModelSize) -> int | None:
    """Bytes of activations, or of the keys and values of all rollouts of a device if they are more."""
    if size.layers is None:
        return None
    number = 4 if recipe.precision == "float32" else 2
    longest = recipe.max_prompt_tokens + recipe.max_new_tokens
    tokens = batch.micro_batch * longest * (2 if recipe.method == "dpo" else 1)
    of_a_layer = ACTIVATION_BYTES // 2 * number * size.hidden
    # with checkpointing only the input of each layer is kept, and one layer at a time is computed again
    activations = tokens * (
        size.layers * number * size.hidden + of_a_layer if recipe.gradient_checkpointing else size.layers * of_a_layer
    )
    drawn_here = recipe.method == "grpo" and recipe.vllm.mode == "none"
    rollouts = batch.generated // batch.devices if drawn_here else 0
    return max(activations, rollouts * longest * size.layers * 2 * size.kv_width * number)


def _outputs(recipe: Recipe, memory: Memory | None) -> tuple[Output, ...]:
    folder, save = recipe.folder, recipe.save
    # what is trained, in the type of its gradients, and Adam's averages, which a resumed run needs
    size = f", about {_gigabytes(memory.gradients + memory.optimizer)}" if memory else ""
    kept = f"the last {save.keep} and the best" + ("; none in the end" if save.when_finished == "remove" else "")
    outputs = [
        Output(folder / RECIPE_FILE, "this recipe, resolved"),
        Output(folder / LOG_FILE, "figures of every step"),
    ]
    if recipe.method in ("rft", "dpo"):
        outputs.append(Output(folder / SAMPLES, "samples with their grades"))
    outputs += [
        Output(
            folder / "checkpoint-N",
            f"every {_count(save.every, 'step')}, {kept}; each with provenance.json{size}",
        ),
        Output(folder / "model.safetensors", "the trained model, with its tokenizer, README.md and provenance.json"),
    ]
    if recipe.judge.kind != "rules" and (cache := recipe.judge.cache_path):
        outputs.append(Output(cache, "the judge's replies"))
    return tuple(outputs)


def model_size(model: str) -> ModelSize | None:
    """The size of a model, from the config.json of its folder or of its copy in the hub's cache, else by its name.

    Asks no hub. A name tells parameters only: 7e9 for Qwen2.5-7B-Instruct. None where nothing tells.
    """
    if model in PACKAGED:
        return PACKAGED[model]
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _size_of(folder / "config.json")
    if cached := _cached_config(model):
        return _size_of(cached)
    named = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)B(?![a-z0-9])", folder.name, re.IGNORECASE)
    return ModelSize(parameters=round(float(named[1]) * 1e9)) if named else None


def _cached_config(model: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json")
    except HFValidationError:  # a path that is not there
        return None
    return Path(found) if isinstance(found, str) else None


def _size_of(config: Path) -> ModelSize | None:
    """The size of a decoder of Llama's kind (Qwen, OLMo, SmolLM, Gemma nearly), its biases left out."""
    try:
        whole: Mapping[str, Any] = json.loads(config.read_text(encoding="utf-8"))
        shape = whole.get("text_config", whole)
        hidden, layers, heads = shape["hidden_size"], shape["num_hidden_layers"], shape["num_attention_heads"]
        head = shape.get("head_dim") or hidden // heads
        kv_width = head * (shape.get("num_key_value_heads") or heads)
        inner, vocabulary = shape["intermediate_size"], shape["vocab_size"]
        layer = hidden * (2 * head * heads + 2 * kv_width + 3 * inner + 2)
        tables = 1 if shape.get("tie_word_embeddings", whole.get("tie_word_embeddings", True)) else 2
        return ModelSize(layers * layer + hidden * (tables * vocabulary + 1), layers, hidden, kv_width, inner)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
