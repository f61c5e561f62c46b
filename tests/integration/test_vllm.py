"""A real vLLM server on the CPU: as the model behind an API, as the judge, and as lm-eval's own backend."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.model, pytest.mark.vllm]
BIN = Path(sys.executable).parent
LIMIT = 16


def lm_eval(folder, scripts, *arguments):
    """Run the literal command with the rules judge; returns the results of worldfacts_dedup and its samples."""
    command = [
        scripts / "lm_eval", "--tasks", "worldfacts_dedup", "--limit", LIMIT, "--apply_chat_template", "--log_samples",
        "--output_path", folder, "--metadata", '{"judge": "rules"}', *arguments,
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=540, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = folder.rglob("results_*.json")
    (samples,) = folder.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return json.loads(results.read_text())["results"]["worldfacts_dedup"], rows


def test_an_api_model_behind_a_real_server_is_scored(vllm_server, tmp_path):
    arguments = f"model={vllm_server.model},base_url={vllm_server.url}/chat/completions,num_concurrent=8"
    results, rows = lm_eval(tmp_path, BIN, "--model", "local-chat-completions", "--model_args", arguments)
    assert results["judge_correct,none"] > 0
    assert all(row["resps"][0][0].strip() for row in rows)


@pytest.fixture
def judge_grade(vllm_server, tmp_path, monkeypatch):
    """Runs `closedbook judge grade` with the server as judge on 20 answers that no rule can decide."""
    answers = tmp_path / "answers.jsonl"
    line = {"question": "Who wrote Hamlet?", "golds": ["William Shakespeare"]}
    answers.write_text("".join(json.dumps(line | {"answer": f"author {n}"}) + "\n" for n in range(20)))

    def run(model, constrained):
        monkeypatch.setenv("CLOSEDBOOK_JUDGE_CONSTRAINED", constrained)
        command = [
            BIN / "closedbook", "judge", "grade", answers, "--json", "--judge", "openai", "--judge-model", model,
            "--judge-url", vllm_server.url,
        ]  # fmt: skip
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)

    return run


def test_a_real_llm_judge_that_may_only_say_two_numbers_grades_every_answer(judge_grade, vllm_server):
    done = judge_grade(vllm_server.model, "auto")
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)["overall"]
    assert (figures["judge_failed"]["value"], figures["judge_failed"]["n"], figures["correct"]["n"]) == (0.0, 20, 20)


def test_a_real_model_that_talks_instead_of_grading_is_refused_in_one_line(judge_grade, vllm_server):
    done = judge_grade(vllm_server.model, "off")
    assert (done.returncode, done.stdout) == (2, "")
    assert "; choose a model that follows the prompt" in done.stderr.strip().splitlines()[-1]


def test_a_judge_without_that_model_is_refused_in_one_line(judge_grade):
    done = judge_grade("nosuch", "auto")
    assert (done.returncode, done.stdout) == (2, "")
    assert "closedbook: judge 'nosuch'" in done.stderr
    assert "refused a call: 404" in done.stderr


def test_a_real_llm_judge_is_calibrated_against_people(vllm_server, tmp_path):
    labels, out = tmp_path / "labels.jsonl", tmp_path / "calibration.json"
    row = {"question": "Who wrote Hamlet?", "golds": ["William Shakespeare"]}
    rows = [row | {"answer": f"author {n}", "correct": n % 2 == 0} for n in range(12)]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [
        BIN / "closedbook", "judge", "calibrate", labels, "--out", out, "--json", "--judge", "openai",
        "--judge-model", vllm_server.model, "--judge-url", vllm_server.url,
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)["overall"]
    assert (figures["fpr"]["n"], figures["fnr"]["n"]) == (6, 6)
    assert json.loads(out.read_text())["judge"]["server"] == vllm_server.url


def test_a_judge_in_this_process_needs_no_server(vllm_bin, small_model, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    answers = tmp_path / "answers.jsonl"
    line = {"question": "Who wrote Hamlet?", "golds": ["William Shakespeare"]}
    answers.write_text("".join(json.dumps(line | {"answer": f"author {n}"}) + "\n" for n in range(5)))
    command = [
        vllm_bin / "python", "-m", "closedbook.harness.cli", "judge", "grade", answers, "--json",
        "--judge", "vllm", "--judge-model", small_model, "--judge-set", "context=1024",
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)["overall"]
    assert (figures["judge_failed"]["value"], figures["judge_failed"]["n"]) == (0.0, 5)
    assert "model: 6 calls" in done.stderr.replace("\n", " ")


def test_lm_evals_vllm_backend_scores_the_same_tasks(vllm_bin, small_model, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    arguments = f"pretrained={small_model},dtype=bfloat16,enforce_eager=True,max_model_len=1024"
    results, rows = lm_eval(tmp_path, vllm_bin, "--model", "vllm", "--model_args", arguments, "--batch_size", "auto")
    assert len(rows) == LIMIT
    assert results["judge_correct,none"] > 0
