#!/bin/bash
# A sweep on up to 8 GPUs at a time, each a job of its own: sbatch configs/trainer/slurm_sweep.sh
#
# Copy it and name your YAMLs and SWEEP below; start it in the project's folder. Every job takes trials from one study
# until none is left. The folder has to lie on a disk that all machines share; there a journal is safe, SQLite is not
# (or --storage postgresql://host/name). A job whose time is up saves its trial, and another goes on with it. If all
# jobs ended too early: SWEEP=runs/mnist/sweep_<job> sbatch configs/trainer/slurm_sweep.sh
#SBATCH --job-name=sweep
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@90
#SBATCH --open-mode=append

SWEEP=${SWEEP:-runs/mnist/sweep_$SLURM_ARRAY_JOB_ID}
.venv/bin/python -m src sweep --config configs/mnist.yaml --sweep configs/sweep/mnist.yaml \
    --resume "$SWEEP" --storage journal "$@" &
trap 'kill -TERM %1' TERM # bash waits for its command before it hears a signal, unless that runs behind it
wait
wait
