"""How much faster a judge is with more workers on a Ray cluster, against a server that takes 200 ms for every reply.

    $ python tests/bench/ray_judging.py

The cluster has four nodes on loopback. Each worker brings 8 calls under way, so twice the workers would make twice the
calls. Workers are started before anything is timed; 1, 2 and 4 of them take turns in one process. Prints JSON: by
workers and round the calls a second, their share of the ideal rate (calls under way / latency), and their ratio to what
one worker made in the same round, over the number of workers (target: 0.9).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from judge import LATENCY, server, triples

from closedbook.harness.cluster import Cluster
from closedbook.harness.judge import JudgeSettings, LLMJudge
from closedbook.harness.judge.chat import Offer
from closedbook.harness.judge.cluster_model import ClusterModel
from closedbook.harness.judge.rubrics import RUBRICS

NODES = Path(__file__).parents[1] / "integration" / "ray_nodes.py"
CALLS = 8  # under way, of each worker
WORKERS = (1, 2, 4)


@contextmanager
def nodes() -> Iterator[str]:
    """A cluster with a node for each worker; yields its address."""
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # its sockets want a short path
    command = [sys.executable, str(NODES), folder, str(max(WORKERS))]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert running.stdout
        yield running.stdout.readline().decode().strip()
    finally:
        running.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def rate(url: str, address: str, workers: int, seconds: float) -> dict[str, float]:
    """Calls a second of so many workers, and their share of the ideal rate."""
    ideal = CALLS * workers / LATENCY
    count = int(ideal * seconds)
    stated = {"kind": "openai", "model": "bench", "base_url": url, "cache": "off", "concurrency": CALLS * workers}
    settings = JudgeSettings.model_validate(stated)
    model = ClusterModel(settings, Offer(choices=RUBRICS[settings.prompt].choices), Cluster(address, workers))
    grader = LLMJudge(settings, model)
    grader.preflight()
    warm = 0
    while model.pool.ready < workers or warm < 2:
        warm += 1
        grader.grade(triples(2 * CALLS * workers, f"warm {warm}"), quiet=True)
    start, before = time.perf_counter(), time.process_time()
    assert all(grade == "incorrect" for grade in grader.grade(triples(count), quiet=True))
    took, busy = time.perf_counter() - start, time.process_time() - before
    model.close()
    return {
        "calls": count,
        "per_second": round(count / took, 1),
        "of_ideal": round(count / took / ideal, 3),
        "driver_busy": round(busy / took, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="about how long one measurement takes")
    arguments = parser.parse_args()
    rounds = []
    with server() as url, nodes() as address:
        for _ in range(arguments.rounds):
            made = {workers: rate(url, address, workers, arguments.seconds) for workers in WORKERS}
            one = made[1]["per_second"]
            rounds.append(
                {str(n): found | {"of_linear": round(found["per_second"] / one / n, 3)} for n, found in made.items()}
            )
    medians = {str(n): statistics.median(each[str(n)]["of_linear"] for each in rounds) for n in WORKERS}
    load = os.getloadavg()[0]
    print(
        json.dumps({"latency": LATENCY, "calls_of_each": CALLS, "rounds": rounds, "of_linear": medians, "load": load})
    )


if __name__ == "__main__":
    main()
