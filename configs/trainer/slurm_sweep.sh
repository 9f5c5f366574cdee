#!/bin/bash
# A sweep on up to 8 GPUs at a time, each a job of its own; start it in the project's folder, with the YAML of your space:
#
#     CONFIG=configs/rows.yaml SPACE=space.yaml sbatch configs/trainer/slurm_sweep.sh
#
# Every job takes trials from one study until none is left. The folder has to lie on a disk that all machines share;
# there a journal is safe, SQLite is not (or --storage postgresql://host/name). A job whose time is up saves its trial,
# and another goes on with it. If all jobs ended too early, give SWEEP=runs/rows/sweep_<job> along.
#SBATCH --job-name=sweep
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@90
#SBATCH --open-mode=append

CONFIG=${CONFIG:-configs/rows.yaml}
SWEEP=${SWEEP:-runs/$(basename "$CONFIG" .yaml)/sweep_$SLURM_ARRAY_JOB_ID}
.venv/bin/python -m src sweep --config "$CONFIG" --sweep "${SPACE:?names the YAML of the space}" \
    --resume "$SWEEP" --storage journal "$@" &
trap 'kill -TERM %1' TERM # bash waits for its command before it hears a signal, unless that runs behind it
wait
wait
