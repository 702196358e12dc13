#!/usr/bin/env bash
# Any training run, on any number of machines: what imdm_dist train takes, its folder first.
#   sbatch --nodes=2 slurm/train.sh runs/teacher --config configs/embedded.yaml engine.zero_stage=1
#SBATCH --job-name=train --nodes=1 --time=24:00:00
#SBATCH --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12
#SBATCH --output=%x-%j.log --open-mode=append --requeue --signal=B:USR1@300

. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
exec "$IMDM_PYTHON" -m imdm_dist.launch --restarts "$IMDM_RESTARTS" --folder "${1:-}" \
    -m imdm_dist train "${@:1:1}" "${IMDM_OVERRIDE_LIST[@]}" "${@:2}"
