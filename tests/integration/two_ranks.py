"""Started by torchrun in test_two_ranks.py: evaluates on two CPU ranks and writes what rank 0 gathered.

`accelerate launch --cpu` silently runs one process, so the ranks are set on lm-eval's model by hand, as its own launch
does on GPUs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import Accelerator
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from closedbook.harness.files import tasks_dir


def main(model: str, out: str, limit: int) -> None:
    """Evaluate, and write metrics and the number of samples from rank 0."""
    accelerator = Accelerator(cpu=True)
    lm = HFLM(pretrained=model, dtype="bfloat16", device="cpu", batch_size=4)
    lm.accelerator, lm._rank, lm._world_size = accelerator, accelerator.process_index, accelerator.num_processes
    lm._device = accelerator.device
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)
    results = simple_evaluate(
        lm, tasks=["worldfacts_dedup"], limit=limit, task_manager=manager, apply_chat_template=True, bootstrap_iters=0
    )
    if results is not None:
        rows = results["samples"]["worldfacts_dedup"]
        found = {
            "ranks": lm.world_size,
            "ids": sorted(row["doc"]["id"] for row in rows),
            "metrics": results["results"]["worldfacts_dedup"],
        }
        Path(out).write_text(json.dumps(found, default=str))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    os._exit(0)
