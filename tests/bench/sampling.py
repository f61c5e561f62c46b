"""What many samples cost with us, beside stock lm-eval with `repeats`: the same model, questions, settings and batch.

    $ python tests/bench/sampling.py [--questions 8] [-n 128] [--batch 256] [--rounds 3] [--model DIR]

Each run is a process of its own, the two alternate, and loading the model is not counted. Prints JSON:

- `ratio`: the median over rounds of lm-eval's seconds to ours (target: at least 3 on a CPU);
- `memory`: peak memory of ours with n samples to that with a quarter of them (target: 1, it must not grow with n);
- `words`: mean length of an answer in both, or the ratio compares different work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

from closedbook.harness.drawing import draw
from closedbook.harness.engines import make_engine
from closedbook.harness.manifests import load_questions
from closedbook.harness.prompts import first_line, question_prompt
from closedbook.harness.sample_store import SampleStore
from closedbook.harness.sampling import STOP, Sampling
from closedbook.harness.small_model import small_model_dir

TOKENS = 16
STOCK = """
task: stock
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
output_type: generate_until
test_split: test
num_fewshot: 0
repeats: {n}
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{do_sample: true, temperature: 1.0, top_p: 1.0, top_k: 0, max_gen_toks: {tokens}, until: {stop}}}
filter_list: [{{name: first, filter: [{{function: take_first}}]}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def ours(model: str, questions: int, n: int, batch: int, folder: Path) -> list[str]:
    """Our samples, and the seconds that they took as the last line of standard output."""
    engine = make_engine("hf", model, "direct", "auto", Sampling(max_new_tokens=TOKENS), batch=batch)
    asked = load_questions("worldfacts", "test")[:questions]
    store = SampleStore(folder / "samples")
    start = time.perf_counter()
    store.begin(dict(engine.identity) | {"judge": None}, [question.id for question in asked], n)
    drawn = draw(store, asked, n, engine, None, progress=False)
    took(start)
    return [said.text for line in drawn for said in line.samples for _ in said.draws]


def stock(model: str, questions: int, n: int, batch: int, folder: Path) -> list[str]:
    """The same of lm-eval, with a task of plain YAML."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    rows = [
        {"prompt": question_prompt(question.question), "answer": question.answers[0]}
        for question in load_questions("worldfacts", "test")[:questions]
    ]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "stock.yaml").write_text(STOCK.format(data=data, n=n, tokens=TOKENS, stop=json.dumps([STOP])))
    lm = HFLM(pretrained=model, device="cpu", batch_size=batch)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    start = time.perf_counter()
    results = simple_evaluate(
        lm, tasks=["stock"], task_manager=manager, apply_chat_template=True, bootstrap_iters=0, log_samples=True
    )
    took(start)
    return [first_line(text) for row in results["samples"]["stock"] for text in row["resps"][0]]


def took(start: float) -> None:
    """Say how long it was."""
    print(json.dumps({"seconds": round(time.perf_counter() - start, 2)}))


def child(kind: str, options: argparse.Namespace, n: int) -> dict[str, Any]:
    """One run, in a process of its own."""
    command = [sys.executable, __file__, "--child", kind, "--questions", str(options.questions), "-n", str(n)]
    command += ["--batch", str(options.batch), "--model", options.model]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found


def main() -> None:
    """Alternate the two and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256, help="sequences at once, in both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default=None, help="folder; the small model unless named")
    parser.add_argument("--child", choices=["ours", "stock"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.model = options.model or str(small_model_dir())
    if options.child:
        with tempfile.TemporaryDirectory() as folder:
            texts = {"ours": ours, "stock": stock}[options.child](
                options.model, options.questions, options.n, options.batch, Path(folder)
            )
        words = fmean(len(text.split()) for text in texts)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"answers": len(texts), "words": round(words, 2), "peak_bytes": peak}))
        return
    rounds = [
        {kind: child(kind, options, options.n) for kind in ("ours", "stock")[:: (-1) ** at]}
        for at in range(options.rounds)
    ]
    few = child("ours", options, max(1, options.n // 4))
    print(json.dumps({
        "questions": options.questions,
        "n": options.n,
        "batch": options.batch,
        "rounds": rounds,
        "ratio": round(median(both["stock"]["seconds"] / both["ours"]["seconds"] for both in rounds), 2),
        "memory": round(median(both["ours"]["peak_bytes"] for both in rounds) / few["peak_bytes"], 3),
        "words": {kind: round(fmean(both[kind]["words"] for both in rounds), 2) for kind in ("ours", "stock")},
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
