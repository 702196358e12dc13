#!/usr/bin/env bash
# 860M IMDM student of a given teacher by SDTT, 7 rounds of 10,000 steps.
#   sbatch slurm/owt_860m_sdtt.sh [key.sub=value ...]
#SBATCH --job-name=owt_860m_sdtt --nodes=2 --time=72:00:00
#SBATCH --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12
#SBATCH --output=%x-%j.log --open-mode=append --requeue --signal=B:USR1@300
home=${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}
. "$home/slurm/stage.sh" "$home/configs/pipeline/owt_860m.yaml" sdtt "$@" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
