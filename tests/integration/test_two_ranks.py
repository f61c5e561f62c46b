"""Two ranks: every question is answered once, judged once, and gathered, with the judge's concurrency shared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from closedbook.harness.manifests import load_questions
from closedbook.harness.testing import JudgeServer

LIMIT = 9  # an odd number, so that the ranks' shares differ


@pytest.mark.model
def test_two_ranks_answer_and_judge_every_question_once(small_model, tmp_path):
    script = Path(__file__).with_name("two_ranks.py")
    out = tmp_path / "gathered.json"
    with JudgeServer(lambda prompt: "0.0", latency=0.05) as server:
        environment = os.environ | {
            "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "CLOSEDBOOK_JUDGE": "openai",
            "CLOSEDBOOK_JUDGE_MODEL": "m", "CLOSEDBOOK_JUDGE_BASE_URL": server.url,
        }  # fmt: skip
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1",
                   "--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "127.0.0.1:0",
                   script, small_model, out, LIMIT]  # fmt: skip
        done = subprocess.run([str(p) for p in command], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    gathered = json.loads(out.read_text())
    assert gathered["ranks"] == 2
    assert gathered["ids"] == sorted(q.id for q in load_questions("worldfacts", "test")[:LIMIT])
    assert gathered["metrics"]["judge_failed,none"] == 0.0
    judged = [prompt for prompt in server.prompts if "capital of France" not in prompt]
    assert len(judged) == len(set(judged)) <= LIMIT
