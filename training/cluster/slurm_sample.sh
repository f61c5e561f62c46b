#!/usr/bin/env bash
# `closedbook sample` on a SLURM cluster: N shards as the tasks of an array, and a job that merges them when all are done.
#
#   cp "$(python -m closedbook.training.cluster)"/slurm_sample.sh .
#   SBATCH_PARTITION=gpu bash slurm_sample.sh 8 /shared/popqa MODEL --task popqa_dedup -n 128 --engine vllm
#
# N, the folder of all samples, and what goes to `closedbook sample`. Shard 3 lies in FOLDER-3. The same command again draws
# what is missing and merges anew. Options of sbatch: its own variables, or the lines below.
# Really run by tests/integration/test_cluster_files.py, with a stand-in for sbatch; never run on a cluster.
set -euo pipefail

case ${1:-} in
  shard)
    exec closedbook sample "${@:4}" --shard "$SLURM_ARRAY_TASK_ID/$2" --out "$3-$SLURM_ARRAY_TASK_ID"
    ;;
  merge)
    shards=()
    for ((number = 1; number <= $2; number++)); do shards+=("$3-$number"); done
    exec closedbook sample-merge "$3" "${shards[@]}"
    ;;
  "" | 0* | *[!0-9]*) false ;; # sbatch would take 8%2
  *) [ $# -ge 3 ] ;;
esac || {
  echo "slurm_sample.sh: give the number of shards, a folder, and what goes to \`closedbook sample\`: 8 /shared/popqa MODEL" >&2
  exit 2
}
array=$(sbatch --parsable --job-name=sample --array="1-$1" --gpus=1 --requeue "$0" shard "$@")
merging=$(sbatch --parsable --job-name=sample-merge --dependency="afterok:${array%%;*}" --kill-on-invalid-dep=yes "$0" merge "$1" "$2")
echo "shards: job ${array%%;*}; then $2: job ${merging%%;*}"
