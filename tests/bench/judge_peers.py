"""The judge path of another harness: `python judge_peers.py inspect_ai|lighteval URL COUNT CONCURRENCY` prints seconds.

Run by judge.py in an environment of their own. Imports are not counted. lighteval's openai backend always uses ten
threads; here it gets as many as asked for, so that the comparison is of equals.
"""

# mypy: ignore-errors
from __future__ import annotations

import os
import sys
import time


def inspect_ai(url: str, count: int, concurrency: int) -> float:
    """An evaluation whose answers are given, so that the scorer's calls are all there is to do."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig, ModelOutput, get_model
    from inspect_ai.scorer import model_graded_qa
    from inspect_ai.solver import solver

    @solver
    def given():
        async def solve(state, generate):
            state.output = ModelOutput.from_content("given", f"answer {state.sample_id}")
            return state

        return solve

    config = GenerateConfig(max_connections=concurrency, temperature=0.0, max_tokens=16)
    grader = get_model("openai-api/bench/bench", base_url=url, api_key="none", config=config)
    samples = [
        Sample(id=n + 1, input="who wrote the long book about the sea", target="Some Body Else") for n in range(count)
    ]
    task = Task(dataset=samples, solver=given(), scorer=model_graded_qa(model=grader))
    start = time.perf_counter()
    (log,) = eval(
        task, model="mockllm/model", display="none", log_dir="/tmp/inspect-logs", max_samples=concurrency,
        log_samples=False, max_connections=concurrency,
    )  # fmt: skip
    took = time.perf_counter() - start
    assert log.status == "success", log.error
    return took


def lighteval(url: str, count: int, concurrency: int) -> float:
    """The batch call of its judge."""
    from concurrent.futures import ThreadPoolExecutor

    from lighteval.metrics.utils import llm_as_judge

    llm_as_judge.ThreadPoolExecutor = lambda _: ThreadPoolExecutor(concurrency)
    os.environ["OPENAI_API_KEY"] = "none"

    def template(question, answer, options, gold):
        return [{"role": "user", "content": f"{question}\n{gold}\n{answer}"}]

    judge = llm_as_judge.JudgeLM(
        model="bench", templates=template, process_judge_response=lambda reply: reply, judge_backend="openai", url=url,
        max_tokens=16,
    )  # fmt: skip
    questions = ["who wrote the long book about the sea"] * count
    start = time.perf_counter()
    judge.evaluate_answer_batch(
        questions, [f"answer {n}" for n in range(count)], [None] * count, ["Some Body Else"] * count
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    peer, address, number, limit = sys.argv[1:]
    print({"inspect_ai": inspect_ai, "lighteval": lighteval}[peer](address, int(number), int(limit)))
