#!/usr/bin/env bash
# Any training run, on any number of machines: what tools/train.py takes, its folder first.
#   sbatch --nodes=2 slurm/train.sh runs/teacher --config configs/embedded.yaml engine.zero_stage=1
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@300

. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
exec "$IMDM_PYTHON" -m imdm_dist.launch --restarts "$IMDM_RESTARTS" --folder "${1:-}" \
    "$IMDM_HOME/tools/train.py" "${@:1:1}" "${IMDM_OVERRIDE_LIST[@]}" "${@:2}"
