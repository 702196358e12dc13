#!/usr/bin/env bash
# OpenWebText teacher, GPT-2-small -> SDTT student -> coupling -> ReDi: whatever of it is missing.
#   sbatch slurm/owt_small_redi.sh [key.sub=value ...]
#SBATCH --job-name=owt_small_redi --nodes=2 --time=48:00:00
#SBATCH --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12
#SBATCH --output=%x-%j.log --open-mode=append --requeue --signal=B:USR1@300
home=${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}
. "$home/slurm/stage.sh" "$home/configs/pipeline/owt_small.yaml" redi "$@" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
