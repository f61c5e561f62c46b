#!/usr/bin/env bash
# GRPO on several nodes of a SLURM cluster: the first node draws rollouts with vLLM, all others train.
#
#   cp "$(python -m closedbook.training.cluster)"/slurm_train.sh .     # then fit the lines of #SBATCH to the cluster
#   CLOSEDBOOK_JUDGE_BASE_URL=http://JUDGE:8000/v1 sbatch --nodes=3 slurm_train.sh \
#       --config grpo_paper output_dir=/shared/grpo_paper
#
# What follows the name of the script goes to `closedbook train grpo`. Every node has the same environment, sees the
# folder of the run, and reaches the judge. TENSOR_PARALLEL is the server's number of GPUs; it divides the model's
# attention heads. A job that is preempted or loses a node is started again by SLURM and goes on from its last checkpoint;
# at its time limit it saves one first. It exits with the code of the training: 2 where the request was wrong.
# Dry-run by tests/integration/test_cluster_files.py; never run on a cluster.
#SBATCH --job-name=closedbook
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@900
set -euo pipefail

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
server=${nodes[0]}
trainers=("${nodes[@]:1}")
count=${#trainers[@]}
if [ "$count" = 0 ]; then
  echo "slurm_train.sh: one node serves and the others train, and there is one; ask for --nodes=2 or more" >&2
  exit 2
fi
processes=$((count * SLURM_GPUS_ON_NODE))
url=http://$server:8000
run=(train grpo "$@" vllm.mode=server "vllm.url=$url")

# Refuses what cannot be run, and says which model is to be served.
plan=$(WORLD_SIZE=$processes closedbook "${run[@]}" --dry-run --json)
facts='import json, sys; r = json.load(sys.stdin)["recipe"]; print(r["model"], r["max_prompt_tokens"] + r["max_new_tokens"], sep="\n")'
{ read -r model && read -r length; } < <(python -c "$facts" <<< "$plan")

srun --job-name=serve --nodes=1 --ntasks=1 --nodelist="$server" \
  trl vllm-serve --model "$model" --max_model_len "$length" --tensor_parallel_size "${TENSOR_PARALLEL:-4}" --port 8000 &
serving=$!
trap 'kill "$serving" 2> /dev/null || true' EXIT
until curl --silent --fail --output /dev/null "$url/health"; do
  if ! kill -0 "$serving" 2> /dev/null; then
    wait "$serving" || exit
    echo "slurm_train.sh: the server ended before it answered; see what it said above" >&2
    exit 1
  fi
  sleep 2
done

# The server is step 0 of the job and the training step 1. Of SLURM's SIGTERM every process gets one, and the first ends
# the run with a checkpoint; launchers are deaf to it, since they would send a second, which ends the run at once.
ending=
trap 'ending=yes; scancel --signal=TERM "$SLURM_JOB_ID.1"' USR1
export PET_SIGNALS_TO_HANDLE=SIGINT,SIGHUP,SIGQUIT
configs=$(python -m closedbook.training.accelerate)
list=$(IFS=,; echo "${trainers[*]}")
# After a first node has ended the others have ten minutes, to write what they have.
# shellcheck disable=SC2016 # each node has a number of its own
srun --job-name=train --nodes="$count" --ntasks="$count" --nodelist="$list" --kill-on-bad-exit=0 --wait=600 \
  bash -c 'trap "" TERM; exec accelerate launch --machine_rank "$SLURM_PROCID" "$@"' node \
  --config_file "$configs/multi_node.yaml" --num_machines "$count" --num_processes "$processes" \
  --main_process_ip "${trainers[0]}" -m closedbook.harness.cli "${run[@]}" --resume &
training=$!
code=0
wait "$training" || code=$?
if [ -n "$ending" ]; then # the signal ended the waiting, not the training
  code=0
  wait "$training" || code=$?
  [ "$code" = 0 ] || scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
