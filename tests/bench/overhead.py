"""What our task class costs over a bare lm-eval YAML: the same model, questions and prompts, in one run, alternating.

    $ python tests/bench/overhead.py --task popqa_dedup --questions 64 --rounds 8

Prints JSON: seconds of every round, and the median of the rounds' ratios, by the clock and in processor time (target:
at most 1.03). The difference is smaller than the noise of a shared machine, which disturbs processor time less. The two
tasks are also run with a model that answers at once: `without_model` holds the medians of that, which is all that
the tasks themselves cost. Also how long each task takes to load, manifest and source together (target: under 2 s).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from closedbook.harness.files import tasks_dir
from closedbook.harness.manifests import load_questions
from closedbook.harness.prompts import question_prompt
from closedbook.harness.small_model import small_model_dir
from closedbook.harness.sources import benchmarks
from closedbook.harness.testing import ScriptedModel

BARE = """
task: bare
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
output_type: generate_until
test_split: test
num_fewshot: 0
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{do_sample: false, temperature: 0.0, max_gen_toks: 64, until: ["\\nQuestion:"]}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def seconds(action: Callable[..., object], *arguments: object) -> tuple[float, float]:
    """How long an action takes, by the clock and in processor time."""
    start, spent = time.perf_counter(), time.process_time()
    action(*arguments)
    return round(time.perf_counter() - start, 3), round(time.process_time() - spent, 3)


def write_bare_task(folder: Path, benchmark: str, questions: int) -> None:
    """The same questions and prompts as a task of plain YAML."""
    data = folder / "data.jsonl"
    asked = load_questions(benchmark, "test")[:questions]
    rows = ({"prompt": question_prompt(q.question), "answer": q.answers[0]} for q in asked)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "bare.yaml").write_text(BARE.format(data=data))


def main() -> None:
    """Alternate the two tasks and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="popqa_dedup")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = HFLM(pretrained=str(small_model_dir()), dtype="bfloat16", device=device, batch_size=32)
    loading = {name: seconds(load_questions, name, "test")[0] for name in benchmarks()}
    with tempfile.TemporaryDirectory() as folder:
        write_bare_task(Path(folder), options.task.partition("_")[0], options.questions)
        manager = TaskManager(include_path=[str(tasks_dir()), folder], include_defaults=False)

        def evaluate(task: str, with_model: LM) -> None:
            simple_evaluate(
                with_model, tasks=[task], limit=options.questions, task_manager=manager,
                apply_chat_template=with_model is model, bootstrap_iters=0,
            )  # fmt: skip

        def alternate(with_model: LM) -> list[dict[str, tuple[float, float]]]:
            pair = ["bare", options.task]
            return [
                {task: seconds(evaluate, task, with_model) for task in pair[:: (-1) ** n]}
                for n in range(options.rounds + 1)
            ][1:]  # the first one warms up

        without_model = alternate(ScriptedModel(lambda prompt: "x"))
        rounds = alternate(model)

    def ratio(part: int) -> float:
        return round(median(times[options.task][part] / times["bare"][part] for times in rounds), 4)

    print(json.dumps({
        "questions": options.questions,
        "rounds (clock, processor)": rounds,
        "ratio": ratio(0),
        "ratio of processor time": ratio(1),
        "without_model": {task: round(median(t[task][0] for t in without_model), 3) for task in rounds[0]},
        "loading_seconds": loading,
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
