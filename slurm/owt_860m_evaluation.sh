#!/usr/bin/env bash
# Table of the 860M models at 2, 4, 8 and 16 steps; refused while one of them is missing.
#   sbatch slurm/owt_860m_evaluation.sh [key.sub=value ...]
#SBATCH --job-name=owt_860m_evaluation --nodes=1 --time=24:00:00
#SBATCH --ntasks-per-node=1 --gpus-per-node=1 --cpus-per-task=12
#SBATCH --output=%x-%j.log --open-mode=append --requeue --signal=B:USR1@300
home=${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}
. "$home/slurm/stage.sh" "$home/configs/pipeline/owt_860m.yaml" table --only "$@" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
