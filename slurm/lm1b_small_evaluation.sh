#!/usr/bin/env bash
# Table of the LM1B models at 2, 4, 8 and 16 steps.
#   sbatch slurm/lm1b_small_evaluation.sh [key.sub=value ...]
#SBATCH --job-name=lm1b_small_evaluation
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=12
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300

. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
exec "$IMDM_PYTHON" "$IMDM_HOME/tools/pipeline.py" here "$IMDM_HOME/configs/pipeline/lm1b_small.yaml" --stage table --only \
    "${IMDM_OVERRIDE_LIST[@]}" "$@"
