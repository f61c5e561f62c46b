"""Stands in for the programs that the cluster's scripts call, under whose names copies of it lie on the PATH.

It starts for real what SLURM would start, on this machine, whose loopback addresses are the nodes: tasks at the same
time with the variables that SLURM sets, a server that answers, two launchers that find each other. What was asked for
is appended to $SLURM_RECORD, a line of JSON each.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import urlopen

import psutil

RECORD = Path(os.environ["SLURM_RECORD"])
STEPS = RECORD.parent / "steps"
WORKER = """
import os, signal, sys, time
from datetime import timedelta

import torch.distributed as dist

asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
sys.stdout.write(f"rank {dist.get_rank()} of {dist.get_world_size()}\\n")
sys.stdout.flush()
dist.barrier()
if os.environ["SLURM_WORK"] == "until asked":
    while not asked:
        time.sleep(0.05)
    time.sleep(1)  # a second signal would have come by now
    sys.stdout.write(f"rank {dist.get_rank()} was asked {len(asked)} times\\n")
    sys.stdout.flush()
    dist.barrier()
sys.exit(int(os.environ["SLURM_CODE"]))
"""


def note(name: str, **more: object) -> None:
    """Append what was asked for."""
    with RECORD.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"program": name, **more}) + "\n")


def srun(words: Sequence[str]) -> int:
    """Run the tasks of a step, each on its node, and exit as the first one that fails does."""
    parser = argparse.ArgumentParser()
    for flag in ("--job-name", "--nodelist", "--kill-on-bad-exit"):
        parser.add_argument(flag, required=flag != "--kill-on-bad-exit")
    for flag in ("--nodes", "--ntasks", "--wait"):
        parser.add_argument(flag, type=int)
    options, command = parser.parse_known_args(words)
    step = len(list(STEPS.glob("*"))) if STEPS.is_dir() else 0
    STEPS.mkdir(exist_ok=True)
    nodes = options.nodelist.split(",")
    note("srun", step=step, **vars(options), command=command)
    tasks = [
        subprocess.Popen(command, env=os.environ | {"SLURM_PROCID": str(rank), "SLURMD_NODENAME": node})
        for rank, node in enumerate(nodes[: options.ntasks])
    ]
    (STEPS / f"{step}.new").write_text(" ".join(str(task.pid) for task in tasks))
    (STEPS / f"{step}.new").rename(STEPS / str(step))

    def end(number: int, frame: object) -> None:
        for member in family(str(step)):
            member.kill()

    signal.signal(signal.SIGTERM, end)
    return max(abs(task.wait()) for task in tasks)


def scancel(words: Sequence[str]) -> int:
    """Send a signal to every process of a step, which SLURM knows whatever sessions they have opened."""
    note("scancel", words=words)
    flag, of = words
    for member in family(of.rpartition(".")[2]):
        member.send_signal(signal.Signals[f"SIG{flag.removeprefix('--signal=')}"])
    return 0


def family(step: str) -> list[psutil.Process]:
    """The tasks of a step, and all that descend from them."""
    tasks = [psutil.Process(int(pid)) for pid in (STEPS / step).read_text().split() if psutil.pid_exists(int(pid))]
    return [member for task in tasks for member in (task, *task.children(recursive=True))]


def scontrol(words: Sequence[str]) -> int:
    """The nodes of a list; anything else is only noted."""
    if words[:2] == ["show", "hostnames"]:
        print(*words[2].split(","), sep="\n")
    else:
        note("scontrol", words=words)
    return 0


def trl(words: Sequence[str]) -> int:
    """A server in the place of vLLM's, unless it is to end at once."""
    note("trl", words=words)
    if "SLURM_SERVER_ENDS" in os.environ:
        return int(os.environ["SLURM_SERVER_ENDS"])

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer((os.environ["SLURMD_NODENAME"], int(os.environ["SLURM_PORT"])), Answers) as server:
        server.serve_forever()
    return 0


def curl(words: Sequence[str]) -> int:
    """Ask the server in vLLM's place, at the port that it has here: 8000 may be taken."""
    there = urlparse(words[-1])
    note("curl", url=words[-1])
    try:
        urlopen(f"http://{there.hostname}:{os.environ['SLURM_PORT']}{there.path}", timeout=5).close()
    except OSError:
        return 22
    return 0


def accelerate(words: Sequence[str]) -> int:
    """Launch workers of our own with the same options, on processes that need no GPU."""
    note("accelerate", rank=os.environ["SLURM_PROCID"], words=words)
    if os.environ["SLURM_WORK"] == "alone":
        return int(os.environ["SLURM_CODE"])
    if os.environ["SLURM_WORK"] == "alone until asked":
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(int(os.environ["SLURM_CODE"])))
        print("waiting", flush=True)
        time.sleep(60)
    options, own = list(words[1 : words.index("-m")]), RECORD.parent / "worker.py"
    if not own.is_file():
        own.with_suffix(f".{os.getpid()}").write_text(WORKER)
        own.with_suffix(f".{os.getpid()}").rename(own)
    config = options.index("--config_file") + 1
    options[config] = str(Path(options[config]).with_name("ddp.yaml"))  # shares of a model need a GPU
    options += ["--main_process_port", os.environ["SLURM_MASTER_PORT"], str(own)]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    os.execv(sys.executable, command)


def sbatch(words: Sequence[str]) -> int:
    """Run a job where it is submitted: the tasks of an array one by one, what depends on them only if all went well."""
    parser = argparse.ArgumentParser()
    for flag in ("--job-name", "--array", "--gpus", "--dependency", "--kill-on-invalid-dep"):
        parser.add_argument(flag)
    for flag in ("--parsable", "--requeue"):
        parser.add_argument(flag, action="store_true")
    options, command = parser.parse_known_args(words)
    jobs = RECORD.parent / "jobs"
    jobs.mkdir(exist_ok=True)
    job = 100 + len(list(jobs.iterdir()))
    note("sbatch", job=job, **vars(options), command=command)
    first, last = map(int, (options.array or "0-0").split("-"))
    codes = []
    before = (options.dependency or "").removeprefix("afterok:")
    if not before or (jobs / before).read_text() == "0":
        for task in range(first, last + 1):
            env = os.environ | {"SLURM_JOB_ID": str(job)}
            env |= {"SLURM_ARRAY_TASK_ID": str(task)} if options.array else {}
            codes.append(subprocess.run(command, env=env, stdout=sys.stderr).returncode)
    (jobs / str(job)).write_text(str(max(codes, default=1)))
    print(job)
    return 0


def main() -> int:
    """Be the program whose name the copy has."""
    programs = {program.__name__: program for program in (accelerate, curl, sbatch, scancel, scontrol, srun, trl)}
    return programs[Path(sys.argv[0]).name](sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
