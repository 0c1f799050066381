#!/bin/bash
# Train a phase on two nodes with eight cards each, weights sharded: sbatch tools/launch/slurm_fsdp.sh NAME [-p …]
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --requeue
set -euo pipefail
. .venv/bin/activate
name=$1
shift
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # all at once: a pipe into head may end scontrol with SIGPIPE
first=${hosts%%$'\n'*}
# srun starts accelerate on both nodes, which takes its node's number from SLURM, and starts a process per card
on_a_node="accelerate launch --config_file tools/launch/two_hosts_fsdp.yaml --machine_rank \$SLURM_NODEID"
on_a_node+=" --main_process_ip $first \"\$@\""
resume=()
if [ -f "experiments/$name/run.json" ]; then resume=(--resume); fi # the job was requeued
qvision run train --name "$name" -p launch "srun bash -c '$on_a_node' accelerate" "${resume[@]}" "$@"
