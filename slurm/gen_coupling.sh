#!/usr/bin/env bash
# A coupling by rollouts on all GPUs of the job: what imdm_dist couple takes.
#   sbatch --nodes=4 slurm/gen_coupling.sh --shards 64 --teacher runs/teacher      (or --array=0-3: jobs that share it)
#SBATCH --job-name=gen_coupling --nodes=1 --time=24:00:00 --array=0
#SBATCH --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12
#SBATCH --output=%x-%A_%a.log --open-mode=append --requeue --signal=B:USR1@300

. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
exec "$IMDM_PYTHON" -m imdm_dist.launch --apart --restarts "$IMDM_RESTARTS" \
    -m imdm_dist couple "${IMDM_OVERRIDE_LIST[@]}" "$@"
