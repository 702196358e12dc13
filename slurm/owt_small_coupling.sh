#!/usr/bin/env bash
# Coupling of OpenWebText: 100,000 pairs by the SDTT student, an array of four jobs that share the shards.
#   sbatch slurm/owt_small_coupling.sh [key.sub=value ...]
#SBATCH --job-name=owt_small_coupling
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --array=0-3

. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
exec "$IMDM_PYTHON" "$IMDM_HOME/tools/pipeline.py" here "$IMDM_HOME/configs/pipeline/owt_small.yaml" --stage pairs --only \
    "${IMDM_OVERRIDE_LIST[@]}" "$@"
