#!/usr/bin/env bash
# Table of the 860M models at 2, 4, 8 and 16 steps.
#   sbatch slurm/owt_860m_evaluation.sh [key.sub=value ...]
#SBATCH --job-name=owt_860m_evaluation
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300

. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
exec "$IMDM_PYTHON" "$IMDM_HOME/tools/pipeline.py" here "$IMDM_HOME/configs/pipeline/owt_860m.yaml" --stage table --only \
    "${IMDM_OVERRIDE_LIST[@]}" "$@"
