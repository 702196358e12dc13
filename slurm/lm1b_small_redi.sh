#!/usr/bin/env bash
# ReDi on the LM1B coupling, 50,000 steps; makes what is missing before it too.
#   sbatch slurm/lm1b_small_redi.sh [key.sub=value ...]
#SBATCH --job-name=lm1b_small_redi
#SBATCH --nodes=1
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
exec "$IMDM_PYTHON" "$IMDM_HOME/tools/pipeline.py" here "$IMDM_HOME/configs/pipeline/lm1b_small.yaml" --stage redi \
    "${IMDM_OVERRIDE_LIST[@]}" "$@"
