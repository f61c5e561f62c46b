"""One checkpoint, the same questions, through lm-eval, Inspect and lighteval: prompts, answers, grades, accuracy.

    $ CLOSEDBOOK_DATA=MIRROR python tests/bench/parity.py --task popqa_dedup --questions 200

Prints the table of docs/suites.md, and below it each question on which a suite differs from lm-eval; with --json what
each suite said, question by question. Every suite runs by its own command, in a process and an environment of its own,
greedily, with the rules judge, in float32: in bfloat16 a near tie goes one way in a batch and the other way alone, and
suites form other batches. lighteval is asked first and chooses: it shuffles the questions by a seed of its own, and
nothing but a number of them can be asked for. The others are told which they were.

Where a prompt is taken from: lm-eval logs it. lighteval logs its tokens, which are decoded, the padding left out.
Inspect logs the messages, to which the model's chat template is applied, as its hf provider does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from closedbook.harness.manifests import load_questions
from closedbook.harness.small_model import small_model_dir
from closedbook.harness.statistics import proportion

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(sys.executable).parent
LIGHTEVAL_BIN = ROOT / ".venv-lighteval" / "bin"
ADAPTER = "closedbook.harness.suites.lighteval"


class Answered(NamedTuple):
    """What a suite did with a question.

    Attributes:
        id: The question.
        prompt: The text whose tokens the model was given, chat template and all.
        answer: The whole answer.
        correct: The grade as a number.
    """

    id: str
    prompt: str
    answer: str
    correct: float


class Run(NamedTuple):
    """What is asked.

    Attributes:
        folder: Where a suite may write; its link `model` leads to the checkpoint.
        questions: How many, where a suite chooses.
        ids: Which, once they are chosen.
        batch: Questions at once.
    """

    folder: Path
    task: str
    questions: int
    batch: int
    ids: frozenset[str] = frozenset()


def call(folder: Path, *command: object) -> None:
    """Run a suite's command, which must succeed, in a folder."""
    kept = {"CLOSEDBOOK_CACHE": str(folder / "closedbook"), "HF_HOME": str(folder / "huggingface")}
    environment = os.environ | kept | {"CLOSEDBOOK_JUDGE": "rules", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}")


def lighteval(run: Run) -> list[Answered]:
    """Asks as many questions as it is told, and chooses them."""
    from pyarrow.parquet import read_table
    from transformers import AutoTokenizer

    model = f"model_name=model,dtype=float32,batch_size={run.batch},cache_dir=cache"
    call(
        run.folder, LIGHTEVAL_BIN / "lighteval", "accelerate", model, f"{run.task}|0", "--custom-tasks", ADAPTER,
        "--max-samples", run.questions, "--output-dir", "lighteval", "--save-details",
    )  # fmt: skip
    (details,) = run.folder.glob("lighteval/details/**/*.parquet")
    tokenizer = AutoTokenizer.from_pretrained(run.folder / "model")

    def answered(row: Mapping[str, Any]) -> Answered:
        said = row["model_response"]
        prompt = str(tokenizer.decode(said["input_tokens"][said["padded_tokens_count"] :]))
        return Answered(row["doc"]["specific"]["id"], prompt, said["text"][0], row["metric"]["judge_correct"])

    return [answered(row) for row in read_table(details).to_pylist()]


def lm_eval(run: Run) -> list[Answered]:
    """Asks the questions by their places in the test split."""
    test = load_questions(run.task.partition("_")[0], "test")
    places = [place for place, question in enumerate(test) if question.id in run.ids]
    call(
        run.folder, HERE / "lm_eval", "--model", "hf", "--model_args", "pretrained=model,dtype=float32",
        "--batch_size", run.batch, "--tasks", run.task, "--samples", json.dumps({run.task: places}),
        "--apply_chat_template", "--log_samples", "--output_path", "lm_eval",
    )  # fmt: skip
    (samples,) = run.folder.glob("lm_eval/**/samples_*.jsonl")

    def answered(row: Mapping[str, Any]) -> Answered:
        return Answered(
            row["doc"]["id"], row["arguments"]["gen_args_0"]["arg_0"], row["resps"][0][0], row["judge_correct"]
        )

    return [answered(json.loads(line)) for line in samples.read_text(encoding="utf-8").splitlines()]


def inspect(run: Run) -> list[Answered]:
    """Asks the questions by their ids."""
    from inspect_ai.log import EvalSample, read_eval_log
    from transformers import AutoTokenizer

    model = ["model_path=model", "dtype=float32", "device=cpu"]
    call(
        run.folder, HERE / "inspect", "eval", f"closedbook/{run.task}", "--model", "hf/local",
        *(word for argument in model for word in ("-M", argument)), "--max-connections", run.batch,
        "--sample-id", ",".join(sorted(run.ids)), "--log-dir", "inspect", "--display", "plain",
    )  # fmt: skip
    (log,) = run.folder.glob("inspect/*.eval")
    tokenizer = AutoTokenizer.from_pretrained(run.folder / "model")

    def answered(sample: EvalSample) -> Answered:
        (asked,) = [event.input for event in sample.events if event.event == "model"]
        chat = [{"role": message.role, "content": message.text} for message in asked]
        prompt = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
        correct = float((sample.scores or {})["judge_correct"].value == "C")
        return Answered(str(sample.id), prompt, sample.output.completion, correct)

    return [answered(sample) for sample in read_eval_log(str(log), resolve_attachments=True).samples or []]


# distribution, where it is installed, how it is asked; the first is what the others are held against
OTHERS: Sequence[tuple[str, Path, Callable[[Run], list[Answered]]]] = [
    ("lm_eval", HERE, lm_eval),
    ("inspect_ai", HERE, inspect),
]


def answers(run: Run) -> dict[str, dict[str, Answered]]:
    """What each suite did with each question, by the suite's name and version."""
    chosen = {row.id: row for row in lighteval(run)}
    told = run._replace(ids=frozenset(chosen))
    found = {named(name, bin_): {row.id: row for row in ask(told)} for name, bin_, ask in OTHERS}
    return found | {named("lighteval", LIGHTEVAL_BIN): chosen}


def named(distribution: str, bin_: Path) -> str:
    """A suite with its version."""
    code = f"from importlib.metadata import version; print(version('{distribution}'))"
    done = subprocess.run([bin_ / "python", "-c", code], capture_output=True, text=True, check=True)
    return f"{distribution} {done.stdout.strip()}"


def table(found: Mapping[str, Mapping[str, Answered]]) -> str:
    """The table, and what differs, as Markdown."""
    first = next(iter(found.values()))
    lines = ["| suite | same prompt | same answer | same grade | correct, % |", "|---|---|---|---|---|"]
    differing = []
    for name, rows in found.items():
        pairs = [(first[id_], rows[id_]) for id_ in first]
        same = [
            f"{sum(getattr(a, field) == getattr(b, field) for a, b in pairs)} of {len(pairs)}"
            for field in ("prompt", "answer", "correct")
        ]
        shown = ["-"] * 3 if rows is first else same
        correct = proportion([row.correct for row in rows.values()])
        lines.append(f"| {' | '.join([name, *shown, str(correct)])} |")
        differing += [
            f"- {name}, question {a.id}, {field}: {ours!r}, not {other!r}"
            for a, b in pairs
            for field, other, ours in zip(Answered._fields, a, b, strict=True)
            if ours != other
        ]
    return "\n".join([*lines, *(["", *differing] if differing else [])])


def main() -> None:
    """Ask every suite and print what they said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a checkpoint with a chat template; the small model")
    parser.add_argument("--task", default="popqa_dedup")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model").symlink_to((options.model or small_model_dir()).resolve())
        found = answers(Run(Path(folder), options.task, options.questions, options.batch))
    print(
        json.dumps({name: [row._asdict() for row in rows.values()] for name, rows in found.items()})
        if options.json
        else table(found)
    )


if __name__ == "__main__":
    main()
