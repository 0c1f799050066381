#!/bin/bash
# Train a phase on two nodes with eight cards each: sbatch tools/launch/slurm.sh NAME [-p PARAMETER VALUE …]
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
# srun starts torchrun on both nodes, and torchrun a process per card; the notebook waits for them
torchrun="srun torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=$first:29500"
resume=()
if [ -f "experiments/$name/run.json" ]; then resume=(--resume); fi # the job was requeued
qvision run train --name "$name" -p launch "$torchrun" "${resume[@]}" "$@"
