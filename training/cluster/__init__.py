"""Files for clusters: two scripts for SLURM and a manifest for Kubernetes, to be copied and fitted to the cluster.

    slurm_train.sh    GRPO on several nodes, with a vLLM server on the first
    slurm_sample.sh   `closedbook sample` in shards, as a job array, and a job that merges them
    kubernetes.yaml   what slurm_train.sh does, as a Job and a server

What surprises: they hold no logic of their own beyond who starts where. Before a GPU does anything they ask `closedbook
train --dry-run`, which refuses a wrong recipe and a number of GPUs that a step cannot be shared among.
"""

from __future__ import annotations

from pathlib import Path


def cluster_dir() -> Path:
    """Where the files lie, for `cp "$(python -m closedbook.training.cluster)"/NAME .`"""
    return Path(__file__).parent
