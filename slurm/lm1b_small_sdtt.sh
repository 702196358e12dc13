#!/usr/bin/env bash
# IMDM student of the LM1B teacher by SDTT, 7 rounds of 10,000 steps; the teacher first, if it is missing.
#   sbatch slurm/lm1b_small_sdtt.sh [key.sub=value ...]
#SBATCH --job-name=lm1b_small_sdtt --nodes=1 --time=24:00:00
#SBATCH --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12
#SBATCH --output=%x-%j.log --open-mode=append --requeue --signal=B:USR1@300
home=${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}
. "$home/slurm/stage.sh" "$home/configs/pipeline/lm1b_small.yaml" sdtt "$@" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
