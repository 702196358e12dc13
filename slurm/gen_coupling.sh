#!/usr/bin/env bash
# A coupling by rollouts on all GPUs of the job: what tools/gen_coupling.py takes.
#   sbatch --nodes=4 slurm/gen_coupling.sh --shards 64 --teacher runs/teacher      (or --array=0-3: jobs that share it)
#SBATCH --job-name=gen_coupling
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --array=0

. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
exec "$IMDM_PYTHON" -m imdm_dist.launch --apart --restarts "$IMDM_RESTARTS" \
    "$IMDM_HOME/tools/gen_coupling.py" "${IMDM_OVERRIDE_LIST[@]}" "$@"
