#!/usr/bin/env bash
# IMDM student of the OpenWebText teacher by SDTT, 7 rounds of 10,000 steps.
#   sbatch slurm/owt_small_sdtt.sh [key.sub=value ...]
#SBATCH --job-name=owt_small_sdtt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=48:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300

. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
exec "$IMDM_PYTHON" "$IMDM_HOME/tools/pipeline.py" here "$IMDM_HOME/configs/pipeline/owt_small.yaml" --stage sdtt \
    "${IMDM_OVERRIDE_LIST[@]}" "$@"
