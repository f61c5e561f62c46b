"""The files for clusters: scripts run with stand-ins for SLURM (slurm.py), a manifest and its commands.

What they start is real: `closedbook` itself, and launchers that find each other over loopback addresses, the nodes.
"""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from closedbook.harness.sample_store import SampleStore
from closedbook.harness.testing import write_tiny_model
from closedbook.training.cluster import cluster_dir
from closedbook.training.recipes import load_recipe

HERE = Path(__file__).parent
SCRIPTS = sorted(path.name for path in cluster_dir().glob("*.sh"))
NODES = "127.0.0.1,127.0.0.2,127.0.0.3"
RECIPE = ("--config", "grpo_paper", "benchmarks=worldfacts", "judge=rules")
STAND_INS = ("accelerate", "curl", "sbatch", "scancel", "scontrol", "srun", "trl")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A PATH on which SLURM's programs are stand-ins, and the variables of a job on three nodes with a GPU each."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in STAND_INS:
        file = programs / name
        file.write_text(f"#!{sys.executable}\n{(HERE / 'slurm.py').read_text()}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    for name, module in (("closedbook", "-m closedbook.harness.cli"), ("python", "")):
        file = programs / name
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    variables = {
        "PATH": f"{programs}:/usr/bin:/bin", "OMP_NUM_THREADS": "1",
        "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": NODES, "SLURM_GPUS_ON_NODE": "1",
        "SLURM_RECORD": str(tmp_path / "record.jsonl"), "SLURM_PORT": free_port(), "SLURM_MASTER_PORT": free_port(),
        "SLURM_WORK": "alone", "SLURM_CODE": "0",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def submitted(cluster):
    """Starts a script as SLURM would; all that is left of it is ended afterwards."""
    started = []

    def submit(name, *words):
        process = subprocess.Popen(["bash", str(cluster_dir() / name), *map(str, words)], cwd=cluster, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        started.append(process)
        return process

    yield submit
    for process in started:
        with suppress(psutil.NoSuchProcess):
            for member in psutil.Process(process.pid).children(recursive=True):
                member.kill()
        process.kill()
        process.communicate()


def ended(process):
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def record(cluster, program):
    lines = [json.loads(line) for line in (cluster / "record.jsonl").read_text().splitlines()]
    return [line for line in lines if line["program"] == program]


def launch_of(words):
    """What accelerate makes of its arguments, with its own parser: number of nodes, this one's, processes a node."""
    assert words[0] == "launch"
    arguments = launch_command_parser().parse_args(words[1:])
    complete, _, _ = _validate_launch_command(arguments)
    prepare_multi_gpu_env(complete)
    return complete


def recipe_of(words):
    """The recipe that `closedbook train grpo` is asked for."""
    assert words[:2] == ["train", "grpo"]
    config, flags = words[words.index("--config") + 1], ("--config", "--resume")
    return load_recipe(config, [word for word in words[2:] if word not in (*flags, config)], "grpo")


# SLURM: training


@pytest.fixture
def trained(cluster, submitted, monkeypatch):
    """A job that has run to its end, with a recipe's model that has a space in its name; and what it printed."""
    monkeypatch.setenv("SLURM_WORK", "together")
    monkeypatch.setenv("TENSOR_PARALLEL", "2")
    code, out, err = ended(submitted("slurm_train.sh", *RECIPE, "model=Gorlim/Osric 7B", "output_dir=a run"))
    assert code == 0, err
    return out


def test_one_node_serves_and_the_others_train(cluster, trained):
    # they found each other, at the first one's address
    assert {"rank 0 of 2", "rank 1 of 2"} <= set(trained.splitlines())
    served, trains = record(cluster, "srun")
    assert (served["nodelist"], served["ntasks"], served["step"]) == ("127.0.0.1", 1, 0)
    assert (trains["nodelist"], trains["ntasks"], trains["step"]) == ("127.0.0.2,127.0.0.3", 2, 1)
    assert trains["kill_on_bad_exit"] == "0"
    assert {line["url"] for line in record(cluster, "curl")} == {"http://127.0.0.1:8000/health"}
    accelerate_and_closedbook_take_what_the_training_nodes_start(cluster)
    trl_takes_what_the_server_is_started_with(cluster)


def accelerate_and_closedbook_take_what_the_training_nodes_start(cluster):
    launched = sorted(record(cluster, "accelerate"), key=lambda line: line["rank"])
    assert len(launched) == 2
    for rank, line in enumerate(launched):
        arguments = launch_of(line["words"])
        assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "1", rank)
        assert (arguments.rdzv_endpoint, arguments.fsdp_version) == ("127.0.0.2:29500", 2)
        assert arguments.training_script == "closedbook.harness.cli"
        recipe = recipe_of(arguments.training_script_args)
        assert (recipe.vllm.mode, recipe.vllm.url) == ("server", "http://127.0.0.1:8000")
        assert str(recipe.folder) == "a run"
        assert arguments.training_script_args[-1] == "--resume"


def trl_takes_what_the_server_is_started_with(cluster):
    from trl import TrlParser
    from trl.scripts.vllm_serve import ScriptArguments, build_command

    (started,) = record(cluster, "trl")
    command, *words = started["words"]
    (arguments,) = TrlParser([ScriptArguments]).parse_args_and_config(words)  # type: ignore[list-item]
    assert command == "vllm-serve"
    stated = (arguments.model, arguments.max_model_len, arguments.tensor_parallel_size, arguments.port)
    assert stated == ("Gorlim/Osric 7B", 320, 2, 8000)
    assert "--weight-transfer-config" in build_command(arguments)


@pytest.mark.parametrize(("ends", "code"), [("0", 1), ("3", 3)])
def test_a_server_that_ends_at_once_ends_the_job(cluster, submitted, monkeypatch, ends, code):
    monkeypatch.setenv("SLURM_SERVER_ENDS", ends)
    assert ended(submitted("slurm_train.sh", *RECIPE))[0] == code
    assert record(cluster, "accelerate") == []


def test_the_job_exits_as_the_training_does(cluster, submitted, monkeypatch):
    monkeypatch.setenv("SLURM_CODE", "5")
    assert ended(submitted("slurm_train.sh", *RECIPE))[0] == 5
    assert record(cluster, "scontrol") == []


def test_before_the_limit_each_process_is_asked_once_and_the_job_is_queued_again(cluster, submitted, monkeypatch):
    monkeypatch.setenv("SLURM_WORK", "until asked")
    monkeypatch.setenv("SLURM_CODE", "1")  # as a run does that ended early, with a checkpoint
    job = submitted("slurm_train.sh", *RECIPE)
    said = [job.stdout.readline() for _ in range(2)]
    assert sorted(said) == ["rank 0 of 2\n", "rank 1 of 2\n"]
    job.send_signal(signal.SIGUSR1)
    code, out, err = ended(job)
    assert code == 1, err
    assert sorted(out.splitlines()) == ["rank 0 was asked 1 times", "rank 1 was asked 1 times"]
    assert [line["words"] for line in record(cluster, "scancel")] == [["--signal=TERM", "7.1"]]
    assert [line["words"] for line in record(cluster, "scontrol")] == [["requeue", "7"]]


def test_a_training_that_finishes_all_the_same_is_not_queued_again(cluster, submitted, monkeypatch):
    monkeypatch.setenv("SLURM_WORK", "alone until asked")
    job = submitted("slurm_train.sh", *RECIPE)
    assert [job.stdout.readline() for _ in range(2)] == ["waiting\n"] * 2
    job.send_signal(signal.SIGUSR1)
    assert ended(job)[0] == 0
    assert record(cluster, "scontrol") == []


@pytest.mark.parametrize(
    ("words", "gpus", "nodes", "said"),
    [
        (["--config", "grpo_papier"], "8", NODES, "grpo_papier"),
        ([*RECIPE, "rollouts=1"], "8", NODES, "rollouts: grpo compares samples"),
        (RECIPE, "7", NODES, "cannot be shared equally among 14 devices"),
        (RECIPE, "8", "127.0.0.1", "ask for --nodes=2 or more"),
    ],
)
def test_a_wrong_request_ends_before_anything_is_started(cluster, submitted, monkeypatch, words, gpus, nodes, said):
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", gpus)
    monkeypatch.setenv("SLURM_JOB_NODELIST", nodes)
    code, _, err = ended(submitted("slurm_train.sh", *words))
    assert (code, said in err) == (2, True), err
    assert not (cluster / "record.jsonl").exists()


# SLURM: samples


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model"), ["Africa", "Asia", "Euro"], 256)


def test_an_array_draws_the_shards_and_a_job_after_it_merges_them(cluster, submitted, model):
    words = ("--limit", "4", "-n", "2", "--max-new-tokens", "3")
    code, out, err = ended(submitted("slurm_sample.sh", 2, cluster / "all of them", model, *words))
    assert code == 0, err
    assert out == f"shards: job 100; then {cluster / 'all of them'}: job 101\n"
    array, merging = record(cluster, "sbatch")
    assert [(cluster / "jobs" / job).read_text() for job in ("100", "101")] == ["0", "0"], err
    assert (array["array"], array["gpus"], array["requeue"]) == ("1-2", "1", True)
    assert (merging["dependency"], merging["kill_on_invalid_dep"]) == ("afterok:100", "yes")
    whole = SampleStore(cluster / "all of them").whole()
    once = subprocess.run(["closedbook", "sample", str(model), *words, "--out", "once"], cwd=cluster, timeout=120)
    assert once.returncode == 0
    assert whole == SampleStore(cluster / "once").whole() and len(whole) == 4


def test_nothing_is_merged_where_a_shard_failed(cluster, submitted):
    code, _, _ = ended(submitted("slurm_sample.sh", 2, cluster / "all", cluster / "no model"))
    assert code == 0  # what was submitted has yet to run, on a real cluster
    assert [(cluster / "jobs" / job).read_text() for job in ("100", "101")] == ["2", "1"]
    assert not (cluster / "all").exists()


@pytest.mark.parametrize(
    "words", [[], ["0", "all", "m"], ["8%2", "all", "m"], ["8,12", "all", "m"], ["8"], ["8", "all"]]
)
def test_samples_without_shards_a_folder_and_a_model_are_refused(cluster, submitted, words):
    code, _, err = ended(submitted("slurm_sample.sh", *words))
    assert (code, err.startswith("slurm_sample.sh: give the number of shards")) == (2, True)
    assert not (cluster / "record.jsonl").exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name):
    checker = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    done = subprocess.run([checker, str(cluster_dir() / name)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


# Kubernetes


def manifest():
    objects = list(yaml.safe_load_all((cluster_dir() / "kubernetes.yaml").read_text()))
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def pod(kind, name):
    spec = manifest()[kind, name]["spec"]["template"]["spec"]
    return spec, spec["containers"][0]


@pytest.fixture
def in_a_pod(cluster, monkeypatch):
    """Runs the command of a pod's container, with the variables that it would have."""

    def run(kind, name, **more):
        _, container = pod(kind, name)
        for variable, value in (manifest()["ConfigMap", "closedbook"]["data"] | more).items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("SLURMD_NODENAME", "127.0.0.1")
        monkeypatch.setenv("SLURM_SERVER_ENDS", "0")
        monkeypatch.setenv("SLURM_PROCID", "0")
        return subprocess.run(container["command"], cwd=cluster, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_training_pod_starts_what_accelerate_and_closedbook_take(cluster, in_a_pod, rank):
    done = in_a_pod("Job", "closedbook-train", RECIPE=" ".join(RECIPE), JOB_COMPLETION_INDEX=rank)
    assert done.returncode == 0, done.stderr
    arguments = launch_of(record(cluster, "accelerate")[0]["words"])
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "8", int(rank))
    assert arguments.rdzv_endpoint == "closedbook-train-0.closedbook:29500"
    recipe = recipe_of(arguments.training_script_args)
    assert (recipe.vllm.mode, recipe.vllm.url) == ("server", "http://vllm.closedbook:8000")
    assert recipe.model == manifest()["ConfigMap", "closedbook"]["data"]["MODEL"]


def test_a_wrong_recipe_ends_a_training_pod_with_the_code_that_fails_the_job(cluster, in_a_pod):
    done = in_a_pod("Job", "closedbook-train", RECIPE="--config grpo_papier", JOB_COMPLETION_INDEX="0")
    assert done.returncode == 2
    rule = manifest()["Job", "closedbook-train"]["spec"]["podFailurePolicy"]["rules"][0]
    assert (rule["action"], rule["onExitCodes"]["values"]) == ("FailJob", [2])
    assert not (cluster / "record.jsonl").exists()


def test_the_server_of_the_manifest_serves_the_recipes_model(cluster, in_a_pod):
    assert in_a_pod("Deployment", "closedbook-vllm").returncode == 0
    (started,) = record(cluster, "trl")
    paper = load_recipe("grpo_paper")
    length = str(paper.max_prompt_tokens + paper.max_new_tokens)
    assert started["words"] == ["vllm-serve", "--model", paper.model, "--max_model_len", length,
                                "--tensor_parallel_size", "4", "--port", "8000"]  # fmt: skip


def test_the_names_in_the_manifest_are_those_that_pods_get():
    service = manifest()["Service", "closedbook"]["spec"]
    for kind, name in (("Deployment", "closedbook-vllm"), ("Job", "closedbook-train")):
        labels = manifest()[kind, name]["spec"]["template"]["metadata"]["labels"]
        assert service["selector"].items() <= labels.items()
        assert pod(kind, name)[0]["subdomain"] == "closedbook"
    assert pod("Deployment", "closedbook-vllm")[0]["hostname"] == "vllm"


def test_the_numbers_in_the_manifest_agree():
    data, job = manifest()["ConfigMap", "closedbook"]["data"], manifest()["Job", "closedbook-train"]["spec"]
    assert job["completions"] == job["parallelism"] == int(data["NODES"])
    gpus = [pod(*of)[1]["resources"]["limits"]["nvidia.com/gpu"]
            for of in (("Job", "closedbook-train"), ("Deployment", "closedbook-vllm"))]  # fmt: skip
    assert gpus == [int(data["GPUS"]), int(data["TENSOR_PARALLEL"])]


def test_kubernetes_schemas_know_every_field_of_the_manifest():
    from kubernetes_validate import latest_version, validate

    assert len(manifest()) == 5
    for one in manifest().values():
        validate(one, latest_version(), strict=True)


def test_the_schemas_would_find_a_field_that_there_is_not():
    from kubernetes_validate import ValidationError, latest_version, validate

    job = manifest()["Job", "closedbook-train"]
    job["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(ValidationError):
        validate(job, latest_version(), strict=True)


def test_the_folder_of_the_files_is_printed_as_they_say():
    command = [sys.executable, "-m", "closedbook.training.cluster"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(cluster_dir())
