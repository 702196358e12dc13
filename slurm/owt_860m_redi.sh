#!/usr/bin/env bash
# 860M teacher (given) -> SDTT student -> coupling -> ReDi: whatever of it is missing.
#   sbatch slurm/owt_860m_redi.sh [key.sub=value ...]
#SBATCH --job-name=owt_860m_redi
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=72:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300

. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
exec "$IMDM_PYTHON" "$IMDM_HOME/tools/pipeline.py" here "$IMDM_HOME/configs/pipeline/owt_860m.yaml" --stage redi \
    "${IMDM_OVERRIDE_LIST[@]}" "$@"
