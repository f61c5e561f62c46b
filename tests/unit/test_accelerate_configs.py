"""The configurations for `accelerate launch`, as accelerate's own code reads them; nothing here needs a GPU."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from closedbook.training.accelerate import accelerate_dir, accelerate_names
from closedbook.training.batches import resolve
from closedbook.training.recipes import load_recipe
from closedbook.training.trl_config import trl_config

NAMES = accelerate_names()
SHARDED = ("fsdp", "multi_node")
HELLO = """
import sys

from accelerate import PartialState

state = PartialState(cpu=True)
line = f"rank {state.process_index} of {state.num_processes}, {state.backend}, {state.device.type}\\n"
sys.stdout.write(line)  # in one piece: both processes write to one pipe
"""


def path(name):
    return str(accelerate_dir() / f"{name}.yaml")


def parsed(name, *options):
    """The arguments of `accelerate launch` with this configuration, complete."""
    arguments = launch_command_parser().parse_args(["--config_file", path(name), *options, "train.py"])
    complete, config, _ = _validate_launch_command(arguments)
    complete.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
    return complete


def environment(name, *options):
    """What `accelerate launch` would tell the processes that it starts."""
    arguments = parsed(name, "--num_processes", "2", "--main_process_port", "0", *options)
    return prepare_deepspeed_cmd_env(arguments)[1] if name == "zero3" else prepare_multi_gpu_env(arguments)


@pytest.fixture
def launched(monkeypatch):
    """Puts this process where one that was launched would be."""

    def launch(name):
        for variable, value in environment(name).items():
            if variable.startswith(("ACCELERATE_", "FSDP_")):
                monkeypatch.setenv(variable, value)

    return launch


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_knows_every_key(name):
    config = load_config_from_file(path(name))  # refuses unknown ones itself, but for those of sections
    options = {action.dest for action in launch_command_parser()._actions}
    assert {*config.fsdp_config, *config.deepspeed_config} <= options


@pytest.mark.parametrize("name", NAMES)
def test_no_line_is_without_effect(name):
    stated = yaml.safe_load(accelerate_dir().joinpath(f"{name}.yaml").read_text())
    handled_apart = {"compute_environment", "distributed_type", "mixed_precision", "fsdp_config", "deepspeed_config"}
    defaults = {action.dest: action.default for action in launch_command_parser()._actions}
    assert {defaults[key] for key in stated.keys() - handled_apart} == {None}  # else the default would win


@pytest.mark.parametrize("name", NAMES)
def test_a_number_of_processes_is_asked_for(name):
    with pytest.raises(ValueError, match="num_processes"):
        parsed(name)
    assert parsed(name, "--num_processes", "4").num_processes == 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("precision", "computed"), [("mixed", "bf16"), ("float32", "no"), ("bfloat16", "no")])
def test_the_recipe_decides_the_precision(name, precision, computed, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", environment(name)["ACCELERATE_MIXED_PRECISION"])
    recipe = load_recipe("grpo_cpu", [f"precision={precision}"])
    assert trl_config(recipe, resolve(recipe, devices=1), steps=1, cpu=True).mixed_precision == computed


def test_a_precision_in_the_file_would_win_over_float32(monkeypatch):
    monkeypatch.setenv(
        "ACCELERATE_MIXED_PRECISION", environment("ddp", "--mixed_precision", "fp16")["ACCELERATE_MIXED_PRECISION"]
    )
    recipe = load_recipe("grpo_cpu", ["precision=float32"])
    assert trl_config(recipe, resolve(recipe, devices=1), steps=1, cpu=True).mixed_precision == "fp16"


@pytest.mark.parametrize("name", SHARDED)
def test_fsdp_shards_all_and_saves_whole_models(name, launched):
    launched(name)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.cpu_ram_efficient_loading
    assert not plugin.activation_checkpointing


def test_several_nodes_shard_as_one_does():
    one, several = (yaml.safe_load(accelerate_dir().joinpath(f"{name}.yaml").read_text()) for name in SHARDED)
    assert one["fsdp_config"] == several["fsdp_config"]


def test_deepspeed_knows_every_field():
    config = load_config_from_file(path("zero3")).deepspeed_config
    assert config.keys() - {"deepspeed_multinode_launcher"} <= {field.name for field in fields(DeepSpeedPlugin)}


@pytest.mark.filterwarnings("ignore")  # accelerate asks for a DeepSpeed that is not installed
def test_deepspeed_shards_all_and_saves_whole_models(launched):
    launched("zero3")
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision("bf16")
    zero = plugin.deepspeed_config["zero_optimization"]
    assert (zero["stage"], zero["stage3_gather_16bit_weights_on_model_save"]) == (3, True)
    assert plugin.zero3_init_flag
    assert plugin.deepspeed_config["bf16"] == {"enabled": True}
    assert plugin.deepspeed_config["train_batch_size"] == "auto"  # the recipe's, by way of the trainer


def test_each_node_takes_its_number_and_the_first_ones_address():
    options = ("--num_processes", "16", "--machine_rank", "1", "--main_process_ip", "192.0.2.7")
    arguments = parsed("multi_node", *options)
    prepare_multi_gpu_env(arguments)
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "8", 1)
    assert arguments.rdzv_endpoint == "192.0.2.7:29500"


@pytest.mark.parametrize("name", ["ddp", "zero3"])
def test_the_options_for_several_nodes_go_with_every_file(name):
    options = ("--num_machines", "2", "--machine_rank", "1", "--main_process_ip", "192.0.2.7")
    arguments = parsed(name, "--num_processes", "8", "--main_process_port", "29500", *options)
    prepare_deepspeed_cmd_env(arguments) if name == "zero3" else prepare_multi_gpu_env(arguments)
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "4", 1)
    assert arguments.rdzv_endpoint == "192.0.2.7:29500"


def test_accelerate_launches_two_processes(tmp_path):
    (tmp_path / "hello.py").write_text(HELLO)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", path("ddp"), "--num_processes", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--main_process_port", "0", str(tmp_path / "hello.py")],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert {"rank 0 of 2, gloo, cpu", "rank 1 of 2, gloo, cpu"} <= set(done.stdout.splitlines())


@pytest.mark.parametrize("devices", [1, 2, 4, 8, 16])
def test_the_papers_step_can_be_shared_among_devices(devices):
    assert resolve(load_recipe("grpo_paper"), devices=devices).step == 640


def test_the_command_lines_module_can_be_launched():
    done = subprocess.run(
        [sys.executable, "-m", "closedbook.harness.cli", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "closedbook" in done.stdout


def test_the_folder_of_the_configurations_is_printed_as_the_help_says():
    command = [sys.executable, "-m", "closedbook.training.accelerate"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(accelerate_dir())
