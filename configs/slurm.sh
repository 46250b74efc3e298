#!/bin/bash
# Train on two nodes of eight GPUs and resume automatically: a crashed rank is restarted in place;
# two minutes before the time limit the run saves, and the job is queued again and resumes; so it does
# after a hang (exit code 75), where this start has saved a checkpoint.
#   sbatch configs/slurm.sh --shards shards/ham10000 --run-dir runs/r34 --epochs 90
#   GPUS=4 sbatch --gpus-per-node=4 --cpus-per-task=32 configs/slurm.sh ...   # processes of a node
#   GPUS=1 sbatch --gpus-per-node=0 --cpus-per-task=16 configs/slurm.sh ...   # no GPU: CPU ranks
#SBATCH --job-name=ham10000
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:USR1@120

set -u
export GPUS=${GPUS:-8}
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MAIN=$(scontrol show node -o "$FIRST" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')  # or its name
export MAIN
export PORT=$((29500 + SLURM_JOB_ID % 1000))

RUN=runs/default BEFORE=
for WORD in "$@"; do
    if [ "$BEFORE" = --run-dir ]; then RUN=$WORD; fi
    BEFORE=$WORD
done

code() {  # launchers turn every exit code into 1; RUN/exit.json has that of train.py
    sed -n 's/.*"code": \([0-9]*\).*/\1/p' "$RUN/exit.json" 2>/dev/null
}

again() {
    echo "the time limit is near: saving and queueing the job again"
    scancel --signal=TERM "$SLURM_JOB_ID.0"  # to launchers and ranks, which save and exit; srun
    wait "$STEP"                             # itself would turn a SIGTERM into a SIGKILL of its tasks
    case $(code) in 0|2) exit "$(code)" ;; esac  # done, or a mistake that stays one
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap again USR1

saved() { find "$RUN/checkpoints" -maxdepth 1 -name 'step-*' 2>/dev/null | sort | tail -n 1; }
BEGUN=$(saved)

# SLURM_NODEID is set on the node only, hence the inner shell; srun inherits no --cpus-per-task
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c 'exec accelerate launch \
    --multi_gpu --num_machines "$SLURM_NNODES" --num_processes $((SLURM_NNODES * GPUS)) \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$MAIN" --main_process_port "$PORT" \
    --rdzv_backend c10d --rdzv_conf "is_host=$((SLURM_NODEID == 0)),read_timeout=300" \
    --max_restarts 3 --mixed_precision bf16 train.py --checkpoint-minutes 5 "$@"' -- "$@" &
STEP=$!
wait "$STEP"
ENDED=$?
CODE=$(code)
if [ "${CODE:-$ENDED}" = 75 ] && [ "$(saved)" != "$BEGUN" ]; then  # hung, after some progress
    echo "the training hung: queueing the job again"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "${CODE:-$ENDED}"
