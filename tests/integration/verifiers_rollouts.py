"""Rollouts of our environment by verifiers itself; test_suite_verifiers.py starts this in the environment that has it.

Reads requests from standard input, as JSON, and writes what came of each: `tasks`, all that the environment holds, and
`rollouts` of the first `n`, or the `error`. `served` sends each task through verifiers' environment server, as trainers
do. One process answers all requests, since importing verifiers takes most of the time.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import verifiers.v1 as vf
from verifiers.v1.serve import EnvClient, EnvServer

import closedbook
from closedbook.harness.errors import ClosedbookError


async def in_process(env: Any, tasks: list[Any], asked: dict[str, Any]) -> list[Any]:
    """Episodes as `vf-eval` runs them."""
    context = vf.ModelContext(**asked)
    async with env.serving():
        return list(await asyncio.gather(*(env.run_slot(slot, context) for task in tasks for slot in env.slots(task))))


async def served(env: Any, tasks: list[Any], asked: dict[str, Any]) -> list[Any]:
    """Episodes as a trainer has them run, by a server that knows no task beforehand."""
    server = EnvServer(env.config, address="tcp://127.0.0.1:0")
    running = asyncio.create_task(server.run())
    client = EnvClient(server.address)
    try:
        sent = [task.data.model_dump() for task in tasks]
        return list(await asyncio.gather(*(client.run(**asked, task_data=data) for data in sent)))
    finally:
        await client.close()
        running.cancel()
        await running


def shown(episode: Any) -> dict[str, Any]:
    """What a trainer looks at."""
    (trace,) = episode.traces
    return {
        "id": trace.task.data.id,
        "key": trace.task.key,
        "ok": episode.ok and trace.ok,
        "rewards": {name: reward and reward.value for name, reward in trace.rewards.items()},
        "metrics": trace.metrics,
        "info": trace.info,
        "errors": [error.message for error in trace.errors],
    }


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What came of a request."""
    try:
        env = closedbook.load_environment(**request["environment"])
        tasks = list(env.taskset)
        said: dict[str, Any] = {"tasks": [task.data.model_dump(mode="json") for task in tasks]}
        if "policy" in request:
            client = vf.EvalClientConfig(base_url=request["policy"], api_key_var="NO_KEY")
            asked = {"client": client, "model": "policy", "sampling": vf.SamplingConfig(temperature=0.5)}
            run = served if request["served"] else in_process
            said["rollouts"] = [shown(episode) for episode in asyncio.run(run(env, tasks[: request["n"]], asked))]
    except ClosedbookError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return said


if __name__ == "__main__":
    json.dump({name: answer(request) for name, request in json.load(sys.stdin).items()}, sys.stdout)
