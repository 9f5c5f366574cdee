#!/bin/bash
# Two machines with 8 GPUs each: CONFIG=configs/rows.yaml sbatch configs/trainer/slurm.sh
#
# 90 seconds before its time is up the job gets a signal: it saves, puts itself back into the queue, and when its turn
# comes again the run goes on, in the same folder. The numbers under --trainer are those of the #SBATCH lines.
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=SIGUSR1@90
#SBATCH --requeue
#SBATCH --open-mode=append

srun --kill-on-bad-exit=1 .venv/bin/python -m src fit --config "${CONFIG:-configs/rows.yaml}" \
    --config configs/trainer/multinode.yaml --trainer.num_nodes 2 --trainer.devices 8 "$@"
