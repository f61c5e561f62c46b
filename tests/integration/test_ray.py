"""Work on a real Ray cluster of three nodes, of which one is killed in the middle while another one joins late.

Nothing is lost, nothing is done twice, and what is written is what one process writes, byte for byte.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from closedbook.harness.manifests import load_questions
from closedbook.harness.testing import JudgeServer, write_tiny_model

HERE = Path(__file__).parent
NODES = 3
KEY = "sk-zorb-2718281828"
LIMIT = 150  # seconds that a command may take


class RayCluster:
    """Nodes that can be killed and added; as many are there after each test as before."""

    def __init__(self, folder):
        quiet = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        self.folder, self.log = folder, folder / "nodes.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "ray_nodes.py"), str(folder), str(NODES)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True, env=quiet,
            )  # fmt: skip
        self.others = [f"127.0.0.{at}" for at in range(3, 2 + NODES)]

    def wait(self):
        """Wait until all nodes are there."""
        self.address = self._answer()

    def _answer(self):
        line = self.process.stdout.readline().strip()
        assert line, self.log.read_text()[-3000:]
        return line

    def _tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def lose(self):
        """Kill a node and all that runs there; its address."""
        return self._tell(f"kill {self.others.pop(0)}")

    def add(self):
        """Another node joins; its address."""
        self.others.append(self._tell("add"))
        return self.others[-1]

    def workers(self):
        """Processes that work for somebody."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                session = int(stat.read_text().rpartition(")")[2].split()[3])
                title = (stat.parent / "cmdline").read_bytes()
                if session == self.process.pid and re.match(rb"ray::(Async)?Actor", title):
                    found.append(stat.parent.name)
        return found

    def close(self):
        with suppress(OSError, subprocess.TimeoutExpired):
            self.process.communicate(timeout=30)  # the end of its input ends it
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture(scope="module")
def cluster():
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets lie in it, and their paths are short
    running = RayCluster(folder)
    try:
        running.wait()
        yield running
    finally:
        running.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def command(*arguments, code=None, **variables):
    """Runs closedbook, or Python code, while the context does something; what it wrote is checked at the end."""
    start = [sys.executable, "-c", code] if code else [sys.executable, "-m", "closedbook.harness.cli"]
    process = subprocess.Popen(
        [*start, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        process.kill()
        process.communicate()


def ended(process, code=0):
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code, err[-3000:]
    return out, err


def ran(*arguments, exits=0, **how):
    with command(*arguments, **how) as process:
        return ended(process, exits)


def until(true, process):
    """Wait until something is true, while a command runs."""
    deadline = time.monotonic() + LIMIT
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


POOL = """
import json, os, sys, time
from closedbook.harness.cluster import Cluster, Pool
from closedbook.harness.errors import RequestError
import ray

class Doubles:
    identity = {"doubles": True}
    def work(self, item):
        if item == -1:
            raise RequestError("item -1: nothing is there; ask for another one")
        time.sleep(0.1)
        return item * 2, ray.util.get_node_ip_address(), os.getpid()
"""


def test_items_of_a_lost_node_are_done_by_others_once_and_a_late_node_gets_work(cluster):
    code = (
        POOL
        + """
with Pool(Cluster(sys.argv[1], workers=3), Doubles) as pool:
    for number, (double, node, pid) in pool.map(range(120)):
        print(json.dumps([number, double, node, pid]), flush=True)
    print(json.dumps(sorted({pid for _, _, pid in pool.ordered(range(9), 2)})))
"""
    )
    lines: list[tuple[int, int, str, int]] = []
    with command(cluster.address, code=code) as process:
        while len({line[2] for line in lines}) < NODES:  # all of them work
            lines.append(json.loads(process.stdout.readline()))
        lost, late = cluster.lose(), cluster.add()
        *more, again = map(json.loads, ended(process)[0].splitlines())
    lines += more
    assert sorted(line[0] for line in lines) == list(range(120))
    assert all(double == 2 * number for number, double, _, _ in lines)
    by_node = {node: {pid for _, _, at, pid in lines if at == node} for node in (lost, late)}
    assert all(len(pids) == 1 for pids in by_node.values())
    assert set(again) <= {pid for _, _, _, pid in lines} - by_node[lost]  # they are kept from one map to the next


def test_results_come_in_the_order_of_the_items_and_an_error_as_it_was_raised(cluster):
    code = (
        POOL
        + """
with Pool(Cluster(sys.argv[1]), Doubles) as pool:
    print([double for double, _, _ in pool.ordered(range(12), 2)], pool.size)
    try:
        list(pool.map([1, -1]))
    except RequestError as error:
        print(type(error).__name__, error)
"""
    )
    out, _ = ran(cluster.address, code=code)
    assert out.splitlines() == [
        f"{list(range(0, 24, 2))} {NODES}",
        "RequestError item -1: nothing is there; ask for another one",
    ]


def test_a_cluster_without_room_is_waited_for_and_then_given_up(cluster):
    code = (
        POOL
        + """
from closedbook.harness.errors import WorkError
with Pool(Cluster(sys.argv[1], workers=3), Doubles) as pool:
    busy = pool.map(range(200))
    places = set()
    while len(places) < 3:
        places.add(next(busy)[1][1])
    with Pool(Cluster(sys.argv[1], workers=1, patience=2), Doubles) as second:
        try:
            list(second.map([1]))
        except WorkError as error:
            print(error)
"""
    )
    out, err = ran(cluster.address, code=code)
    assert re.fullmatch(r"no worker for 2 s: the Ray cluster at \S+ has no node with room \(1 CPU\); .* goes on\n", out)
    assert err.count("\n") == 1
    assert err.startswith("waiting for the Ray cluster at ")


def told_of(cluster, method, items, workers):
    """What ends the work of workers with that method."""
    code = f"""
from closedbook.harness.errors import ClosedbookError
class Other(Doubles):
    {method}
with Pool(Cluster(sys.argv[1], workers={workers}), Other) as pool:
    try:
        list(pool.map(range({items})))
    except ClosedbookError as error:
        print(type(error).__name__, error)
"""
    return ran(cluster.address, code=POOL + code)[0]


@pytest.mark.parametrize(
    ("method", "items", "workers", "told"),
    [
        pytest.param(
            'def __init__(self): self.identity = {"model": ray.util.get_node_ip_address()}', 100, 2,
            r"RequestError the workers differ: model is '\S+' on \S+ and '\S+' on the others; put the same .*",
            id="workers that differ",
        ),
        pytest.param(
            'def __init__(self): raise ValueError("zorb is missing")', 1, 1,
            r"WorkError a worker on \S+ cannot start: ValueError: zorb is missing",
            id="a worker that cannot be built",
        ),
        pytest.param(
            "def work(self, item): os._exit(1)", 1, 1,
            r"WorkError 6 workers ended one after the other, the last on \S+, short of memory, .* goes on",
            id="an item that ends every worker",
        ),
    ],
)  # fmt: skip
def test_what_no_worker_can_do_ends_the_work_in_one_line(cluster, method, items, workers, told):
    assert re.fullmatch(told + r"\n", told_of(cluster, method, items, workers))


def test_a_late_node_draws_ahead_too(cluster):
    cluster.lose()
    code = (
        POOL
        + """
nodes = set()
with Pool(Cluster(sys.argv[1]), Doubles) as pool:
    for _, node, _ in pool.ordered(range(600), 1):
        nodes.add(node)
        print(len(nodes), pool.size, flush=True)
        if len(nodes) == 3:
            break
"""
    )
    with command(cluster.address, code=code) as process:
        until(lambda: process.stdout.readline().startswith(f"{NODES - 1} "), process)
        cluster.add()
        out, _ = ended(process)
    assert out.splitlines()[-1] == f"{NODES} {NODES}"


def test_a_judges_model_that_is_another_one_on_the_workers_is_refused(cluster):
    code = """
import sys
from closedbook.harness.cluster import Cluster
from closedbook.harness.errors import RequestError
from closedbook.harness.judge import JudgeSettings, cluster_model
from closedbook.harness.judge.chat import Offer, Reply

class Elsewhere:
    identity = {"model": "m", "weights": "a1"}
    def __init__(self, settings, offer):
        pass
    def work(self, asked):
        return cluster_model.Said(asked.first, [Reply("1.0", 1, 1)], None)

cluster_model.Loaded = Elsewhere
model = cluster_model.ClusterModel(
    JudgeSettings(kind="vllm", model="m"), Offer(choices=("1.0", "0.0")), Cluster(sys.argv[1], workers=1)
)
try:
    model.prepare([{"role": "user", "content": "1"}])
except RequestError as error:
    print(error)
model.close()
"""
    out, err = ran(cluster.address, code=code)
    assert out.startswith("the judge's weights is 'a1' on the workers and 'of the hub' here; put the same model folder")
    assert err.startswith("the Ray cluster has no GPU now, so each worker takes a processor; ")
    assert err.count("\n") == 1


DRAW = """
import json, sys
from pathlib import Path
from closedbook.harness.cluster import Cluster
from closedbook.harness.judge import JudgeSettings
from closedbook.harness.sampling import Sampling
from closedbook.harness.study.sample import Request, sample
model, limit, tokens, block, *runs = map(json.loads, sys.argv[1:])
for out, n, address in runs:
    request = Request(model, n=n, sampling=Sampling(max_new_tokens=tokens), limit=limit, out=Path(out),
                      cluster=Cluster(address, workers=3) if address else None)
    sample(request, JudgeSettings(kind="rules"), progress=False, block=block)
"""


def drawing(model, limit, tokens, block, *runs):
    """Arguments of that code: runs are folders, with the samples of a question and the cluster's address."""
    stated = ([str(out), n, address] for out, n, address in runs)
    return [json.dumps(each) for each in (str(model), limit, tokens, block, *stated)]


def same_samples(one, other):
    """Whether two folders hold the same files with the same rows."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert (one / "samples.json").read_bytes() == (other / "samples.json").read_bytes()
    tables = [name for name in names if name.endswith(".parquet")]
    assert tables
    return all(pq.read_table(one / name).equals(pq.read_table(other / name)) for name in tables)


@pytest.mark.model
def test_samples_of_a_real_model_are_those_of_one_process(cluster, small_model, tmp_path):
    runs = drawing(small_model, 12, 6, 1, (tmp_path / "alone", 3, ""), (tmp_path / "ray", 3, cluster.address))
    with command(*runs, code=DRAW) as process:
        until(lambda: len(list((tmp_path / "ray").glob("*.parquet"))) >= 2, process)
        cluster.lose()
        cluster.add()
        ended(process)
    assert same_samples(tmp_path / "alone", tmp_path / "ray")


def test_a_run_on_a_cluster_and_one_process_go_on_with_each_others_folder(cluster, tmp_path):
    model = write_tiny_model(tmp_path / "model", ["Africa", "Asia", "Europe", "Euro"], 256)
    there = ["sample", model, "--limit", "5", "--max-new-tokens", "4", "--engine", "ray", "--workers", "1",
             "--address", cluster.address]  # fmt: skip
    ran(*there, "-n", "300", "--out", tmp_path / "begun")
    runs = [(tmp_path / "begun", 600, ""), (tmp_path / "gone on", 300, ""), (tmp_path / "neither", 300, "")]
    ran(*drawing(model, 5, 4, None, *runs, (tmp_path / "neither", 600, "")), code=DRAW)
    ran(*there, "-n", "600", "--out", tmp_path / "gone on")
    assert same_samples(tmp_path / "begun", tmp_path / "neither")
    assert same_samples(tmp_path / "gone on", tmp_path / "neither")


@pytest.fixture
def answers(tmp_path):
    """Answers that no rule decides, and some that one does."""
    rows = [
        {"question": q.question, "golds": list(q.answers), "answer": f"zorb{at}" if at % 9 else q.answers[0]}
        for at, q in enumerate(load_questions("worldfacts", "test")[:90])
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "answers.jsonl"


def judging(answers, out, server, *more):
    return ["judge", "grade", answers, "--out", out, "--judge", "openai", "--judge-model", "m", "--judge-url",
            server.url, "--judge-set", "concurrency=6", "--judge-set", f"cache={out}.sqlite",
            "--judge-set", "price_in=1", "--judge-set", "price_out=1", "--json", *more]  # fmt: skip


def verdict(prompt):
    return "1.0" if sum(map(ord, prompt)) % 2 else "0.0"


def test_grades_are_those_of_one_process_and_every_call_is_paid_once(cluster, answers, tmp_path):
    with JudgeServer(verdict) as server:
        alone = ran(*judging(answers, tmp_path / "alone", server))
        calls = Counter(server.prompts)
    with JudgeServer(verdict, latency=0.3) as server:
        there = judging(answers, tmp_path / "ray", server, "--engine", "ray", "--address", cluster.address)
        with command(*there, OPENAI_API_KEY=KEY) as process:
            until(lambda: len(server.requests) >= 20, process)
            cluster.lose()
            cluster.add()
            ray = ended(process)
        again = Counter(server.prompts)
        assert 2 <= server.most_at_once <= 6 + 6  # of a lost node the server does not know that nobody waits
        assert ran(*there)[0] == ray[0]
        assert Counter(server.prompts) == again  # what was said is kept
    assert (tmp_path / "alone").read_bytes() == (tmp_path / "ray").read_bytes()
    assert alone[0] == ray[0]
    assert alone[1].splitlines()[-1] == ray[1].splitlines()[-1]  # the same number of calls, tokens and dollars
    assert again.keys() == calls.keys()
    assert again.total() - calls.total() <= 6  # calls that the lost node had under way
    written = [path for path in cluster.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert written
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_refusal_ends_the_work_on_all_workers_and_never_is_a_grade(cluster, answers, tmp_path):
    asked = Counter[str]()

    def fails_later(prompt):
        asked[""] += 1
        return verdict(prompt) if asked[""] < 12 else 401

    with JudgeServer(fails_later) as server:
        there = judging(answers, tmp_path / "ray", server, "--engine", "ray", "--address", cluster.address)
        _, err = ran(*there, exits=1)
        assert len(server.requests) < 30
    assert "refused a call" in err
    rows = [json.loads(line) for line in (tmp_path / "ray").read_text().splitlines()]
    assert {row.get("judge_failure") for row in rows} == {None, "refused"}
    assert sum(row["grade"] is None for row in rows) >= 50


def test_a_rate_limit_holds_over_all_workers(cluster, answers, tmp_path):
    at = []

    def noted(prompt):
        at.append(time.monotonic())
        return verdict(prompt)

    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[1:9]))
    with JudgeServer(noted) as server:
        there = judging(answers, tmp_path / "ray", server, "--engine", "ray", "--address", cluster.address)
        ran(*there, "--judge-set", "requests_per_minute=300")
    assert len(at) == 1 + 8  # one to try the judge
    assert at[-1] - at[1] >= 0.9 * 7 * 60 / 300


def test_ctrl_c_ends_the_workers_and_leaves_the_cluster(cluster, answers, tmp_path):
    with JudgeServer(verdict, latency=0.3) as server:
        there = judging(answers, tmp_path / "ray", server, "--engine", "ray", "--address", cluster.address)
        with command(*there) as process:
            until(lambda: len(server.requests) >= 6, process)
            assert cluster.workers()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "Traceback" not in err
    deadline = time.monotonic() + 20
    while cluster.workers():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ran(cluster.address, code=POOL + "with Pool(Cluster(sys.argv[1]), Doubles) as pool: list(pool.map([1]))")


def test_rows_that_state_test_facts_are_those_of_one_process(cluster, tmp_path):
    ours = load_questions("worldfacts", "test")
    with (tmp_path / "my.jsonl").open("w") as lines:
        for at in range(10_001):
            q = ours[at % len(ours)]
            row = {"question": q.question, "answer": q.answers[0]}
            lines.write(json.dumps(row if at % 50 == 0 else row | {"question": f"who guards gate {at} of zorb"}) + "\n")
    run = ["dedup", "run", "--train", tmp_path / "my.jsonl", "--against", "worldfacts", "--json", "--out"]
    alone, _ = ran(*run, tmp_path / "alone")
    with command(*run, tmp_path / "ray", "--engine", "ray", "--address", cluster.address) as process:
        until(lambda: len(list((tmp_path / "ray" / ".parts").glob("0*.json"))) >= 1, process)
        cluster.lose()
        cluster.add()
        assert ended(process)[0] == alone
    assert json.loads(alone)["contained"]["rows"] > 190
    for name in ("report.json", "matches.jsonl", "filtered.jsonl"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "ray" / name).read_bytes()


def test_an_address_without_a_cluster_is_one_line(answers, tmp_path):
    with JudgeServer(verdict) as server:
        there = judging(answers, tmp_path / "ray", server, "--engine", "ray", "--address", "127.0.0.2:9")
        _, err = ran(*there, exits=2)
    assert err.splitlines()[-1].startswith("closedbook: --address 127.0.0.2:9: there is no Ray cluster to join (")
    assert err.count("closedbook: ") == 1
