"""A real model through real lm_eval: the literal command, `closedbook eval`, and a run that is killed and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from closedbook.harness.manifests import load_questions, read_manifest
from closedbook.harness.prompts import messages, question_prompt
from closedbook.harness.provenance import ALLOW, Provenance, write_provenance

pytestmark = pytest.mark.model
BIN = Path(sys.executable).parent


def call(*command, **options):
    """Run a command that must succeed and return its standard output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def samples(folder, task):
    """Logged samples of a task, from the newest file below a folder."""
    newest = max(folder.rglob(f"samples_{task}_*.jsonl"), key=lambda path: path.stat().st_mtime)
    return [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines()]


def prompts(folder, task):
    return [row["arguments"]["gen_args_0"]["arg_0"] for row in samples(folder, task)]


AUTO = ["--batch_size", "auto", "--max_batch_size", "8"]


@pytest.fixture(scope="module")
def lm_eval_run(small_model, tmp_path_factory):
    """The literal command on eight questions of worldfacts, once with the chat template, and once without.

    The second has `--batch_size auto`, which tries the largest batch of the longest sequences: on a CPU, where it takes
    minutes, both are kept small.
    """
    out = tmp_path_factory.mktemp("lm_eval")
    for name, flags in (("chat", ["--apply_chat_template", "--batch_size", "8"]), ("plain", AUTO)):
        call(
            BIN / "lm_eval", "--model", "hf", "--model_args", f"pretrained={small_model},dtype=bfloat16,max_length=192",
            "--tasks", "worldfacts_dedup", "--limit", "8", "--log_samples",
            "--output_path", out / name, "--metadata", '{"judge": "rules"}', *flags,
            cwd=out,
        )  # fmt: skip
    return out


def test_the_literal_lm_eval_command_scores_a_real_model(lm_eval_run):
    rows = samples(lm_eval_run / "chat", "worldfacts_dedup")
    assert len(rows) == 8
    assert sum(row["judge_correct"] for row in rows) >= 1
    assert all(row["resps"][0][0].strip() for row in rows)


def test_a_chat_model_is_sent_the_chat_messages_of_the_prompt_function_byte_for_byte(lm_eval_run, small_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_model)
    assert prompts(lm_eval_run / "chat", "worldfacts_dedup") == [
        tokenizer.apply_chat_template(messages(q.question), tokenize=False, add_generation_prompt=True)
        for q in load_questions("worldfacts", "test")[:8]
    ]


def test_a_base_model_is_sent_the_text_of_the_prompt_function_byte_for_byte(lm_eval_run):
    asked = [question_prompt(q.question) for q in load_questions("worldfacts", "test")[:8]]
    assert prompts(lm_eval_run / "plain", "worldfacts_dedup") == asked


EVAL = ("eval", "--tasks", "worldfacts_dedup", "--batch-size", "4")


@pytest.fixture
def calibration(tmp_path):
    """A calibration of the rules judge on four labelled answers."""
    labels = tmp_path / "labels.jsonl"
    rows = [{"question": "q", "golds": ["Paris"], "answer": a, "correct": c} for a in ("Paris", "Rome") for c in (0, 1)]
    labels.write_text(
        "".join(json.dumps(row | {"correct": bool(row["correct"])}) + "\n" for row in rows * 3 + rows[:1])
    )
    call(BIN / "closedbook", "judge", "calibrate", labels, "--out", tmp_path / "calibration.json")
    return tmp_path / "calibration.json"


def test_closedbook_eval_prints_json_only_and_agrees_with_its_samples(small_model, tmp_path, calibration):
    flags = ["--limit", 8, "--out", tmp_path, "--calibration", calibration, "--json"]
    figures = json.loads(call(BIN / "closedbook", *EVAL, "smollm2", *flags))["worldfacts_dedup"]
    assert set(figures) == {"exact_match", "contains", "judge_correct", "judge_failed", "corrected"}
    assert figures["corrected"]["n"] == 8
    rows = samples(tmp_path, "worldfacts_dedup")
    assert figures["judge_correct"]["n"] == 8
    assert figures["judge_correct"]["value"] == sum(row["judge_correct"] for row in rows) / 8
    assert json.loads((tmp_path / "figures.json").read_text())["worldfacts_dedup"] == figures
    assert json.loads((tmp_path / "run.json").read_text())["chat"] is True


def test_the_effect_of_deduplication_is_measured_on_what_was_kept_and_what_was_dropped(small_model, tmp_path):
    dropped = len(read_manifest("worldfacts").ids("dropped"))
    command = (
        BIN / "closedbook",
        "dedup",
        "effect",
        small_model,
        "worldfacts",
        "--limit",
        8,
        "--out",
        tmp_path,
        "--json",
    )
    (effect,) = json.loads(call(*command))
    assert (effect["kept"]["n"], effect["dropped"]["n"]) == (8, dropped)
    assert json.loads((tmp_path / "effect.json").read_text())["effects"] == [effect]
    asked = {row["doc"]["id"] for row in samples(tmp_path / "dropped", "worldfacts_dedup")}
    assert asked == set(read_manifest("worldfacts").ids("dropped"))


def kept_answers(folder):
    """How many answers the run's cache holds."""
    import sqlite3

    count = 0
    for path in folder.glob("answers-*.db"):
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as base:
                count += base.execute("select count(*) from unnamed").fetchone()[0]
        except sqlite3.OperationalError:
            continue
    return count


def test_a_killed_run_goes_on_from_the_answers_it_has(small_model, tmp_path):
    command = [
        str(part) for part in (BIN / "closedbook", *EVAL, small_model, "--limit", 12, "--out", tmp_path, "--json")
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        deadline = time.monotonic() + 240
        while kept_answers(tmp_path) < 4 and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        os.kill(running.pid, signal.SIGKILL)
    kept = kept_answers(tmp_path)
    assert 4 <= kept < 12
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert f"0/{12 - kept}" in done.stderr
    assert json.loads(done.stdout)["worldfacts_dedup"]["judge_correct"]["n"] == 12


def test_a_model_folder_without_tokenizer_is_one_clear_line(small_model, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(small_model / name)
    done = subprocess.run([BIN / "closedbook", *EVAL, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "has no tokenizer" in done.stderr.strip().splitlines()[-1]


def test_a_folder_that_is_no_model_is_one_clear_line(tmp_path):
    done = subprocess.run([BIN / "closedbook", *EVAL, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "is no model folder or hub id" in done.stderr.strip().splitlines()[-1]


# --- a checkpoint that was trained on test questions ---


@pytest.fixture(scope="module")
def contaminated(small_model, tmp_path_factory):
    """The small model, said to have been trained on three test questions and on train."""
    folder = tmp_path_factory.mktemp("contaminated")
    for file in small_model.iterdir():
        (folder / file.name).symlink_to(file)
    manifest = read_manifest("worldfacts")
    provenance = Provenance(
        method="sft",
        base_model=str(small_model),
        base_digest="0" * 64,
        step=1,
        seed=1,
        recipe={},
        manifests={"worldfacts": manifest.digest},
        train_ids=(*manifest.ids("test")[:3], *manifest.ids("train")),
        judge=None,
        prompt="direct",
        versions={},
        revision=None,
    )
    write_provenance(folder, provenance)
    return folder


SAID = "was trained on 3 of the 214 questions of worldfacts_dedup (split test), such as "


def lm_eval(model, out, **variables):
    command = [
        BIN / "lm_eval", "--model", "hf", "--model_args", f"pretrained={model},dtype=bfloat16,max_length=192",
        "--tasks", "worldfacts_dedup", "--limit", "2", "--batch_size", "2", "--output_path", out,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | variables)


def carried(out):
    """What lm-eval's results say of the checkpoint."""
    (results,) = out.rglob("results_*.json")
    metadata = json.loads(results.read_text())["configs"]["worldfacts_dedup"]["metadata"]
    return metadata["closedbook"]["checkpoint"]["pretrained"]


def test_plain_lm_eval_refuses_a_checkpoint_that_was_trained_on_the_questions(contaminated, tmp_path):
    done = lm_eval(contaminated, tmp_path)
    assert done.returncode != 0
    said = done.stderr.strip().splitlines()[-1]
    assert SAID in said
    assert "CLOSEDBOOK_ALLOW_CONTAMINATED=1" in said
    assert not list(tmp_path.rglob("results_*"))


def test_plain_lm_eval_asks_it_all_the_same_where_the_variable_says_so(contaminated, tmp_path):
    done = lm_eval(contaminated, tmp_path, **{ALLOW: "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(SAID) == 1
    assert (carried(tmp_path)["contaminated"], carried(tmp_path)["method"]) == (3, "sft")


def test_closedbook_eval_refuses_it_on_one_line_and_leaves_nothing(contaminated, tmp_path):
    command = [BIN / "closedbook", *EVAL, contaminated, "--limit", "2", "--out", tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    said = done.stderr.strip().splitlines()[-1]
    assert f"{contaminated} {SAID}" in said
    assert "--allow-contaminated" in said
    assert not (tmp_path / "run").exists()


def test_closedbook_eval_asks_it_all_the_same_where_the_flag_says_so(contaminated, tmp_path):
    command = [BIN / "closedbook", *EVAL, contaminated, "--limit", "2", "--out", tmp_path, "--allow-contaminated"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count(SAID) == 1
    assert json.loads(done.stdout)["worldfacts_dedup"]["contains"]["n"] == 2
    assert carried(tmp_path)["contaminated"] == 3
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["checkpoint"]["worldfacts_dedup"]["pretrained"] == carried(tmp_path)
