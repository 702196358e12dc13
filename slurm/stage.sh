#!/usr/bin/env bash
# Any stage of any chain, and what is missing of what it starts from; further arguments as `imdm_dist run` takes them.
#   sbatch --nodes=4 slurm/stage.sh configs/pipeline/owt_small.yaml teacher [key.sub=value ...]
#   sbatch --array=0-3 slurm/stage.sh configs/pipeline/owt_small.yaml pairs       a coupling: four jobs share its shards
#   sbatch --ntasks-per-node=1 --gpus-per-node=1 slurm/stage.sh configs/pipeline/owt_small.yaml table --only
#SBATCH --job-name=stage --nodes=1 --time=24:00:00
#SBATCH --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=12
#SBATCH --output=%x-%j.log --open-mode=append --requeue --signal=B:USR1@300

. "${IMDM_HOME:-${SLURM_SUBMIT_DIR:-.}}/slurm/environment.sh" || {
    echo "error: submit it from the checkout, or set IMDM_HOME to that" >&2 && exit 2
}
# The elements of an array would each make what is missing before their stage.
exec "$IMDM_PYTHON" -m imdm_dist run --in-job "${1:?give a chain and a stage}" --stage "${2:?give a stage}" \
    ${SLURM_ARRAY_JOB_ID:+--only} "${IMDM_OVERRIDE_LIST[@]}" "${@:3}"
