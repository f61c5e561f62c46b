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


def test_a_real_llm_judge_accounts_for_every_answer(vllm_server, tmp_path, monkeypatch):
    answers = tmp_path / "answers.jsonl"
    lines = [
        {"question": "Who wrote Hamlet?", "golds": ["William Shakespeare"], "answer": f"author {n}"} for n in range(20)
    ]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_MODEL", vllm_server.model)
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_BASE_URL", vllm_server.url)
    command = [BIN / "closedbook", "judge", "grade", answers, "--judge", "openai", "--json"]
    done = subprocess.run([str(p) for p in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)["overall"]
    assert figures["judge_failed"]["n"] == 20
    assert figures["correct"]["n"] == 20 - round(20 * figures["judge_failed"]["value"])


def test_a_judge_without_that_model_is_refused_in_one_line(vllm_server, tmp_path, monkeypatch):
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"question": "q", "golds": ["g"], "answer": "a"}\n')
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_MODEL", "nosuch")
    monkeypatch.setenv("CLOSEDBOOK_JUDGE_BASE_URL", vllm_server.url)
    command = [BIN / "closedbook", "judge", "grade", answers, "--judge", "openai"]
    done = subprocess.run([str(p) for p in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "closedbook: judge 'nosuch'" in done.stderr
    assert "refused a call: 404" in done.stderr


def test_lm_evals_vllm_backend_scores_the_same_tasks(vllm_bin, small_model, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    arguments = f"pretrained={small_model},dtype=bfloat16,enforce_eager=True,max_model_len=1024"
    results, rows = lm_eval(tmp_path, vllm_bin, "--model", "vllm", "--model_args", arguments, "--batch_size", "auto")
    assert len(rows) == LIMIT
    assert results["judge_correct,none"] > 0
