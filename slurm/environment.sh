# What all batch scripts here do first: find the checkout, Python and what the site needs. Sourced, not submitted.

# SLURM runs a copy of the script, which does not know where it came from: submit from the checkout, or set IMDM_HOME.
IMDM_HOME=${IMDM_HOME:-$SLURM_SUBMIT_DIR}
if [[ ! -e $IMDM_HOME/imdm_dist/__main__.py ]]; then
    echo "error: $IMDM_HOME is not the checkout: submit from there, or set IMDM_HOME to it" >&2
    exit 2
fi
# slurm/site.sh, which is yours and no part of the repository: modules, proxies, NCCL's network interface and so on.
if [[ -e $IMDM_HOME/slurm/site.sh ]]; then . "$IMDM_HOME/slurm/site.sh"; fi
if [[ -z ${IMDM_PYTHON:-} ]]; then
    IMDM_PYTHON=$IMDM_HOME/.venv/bin/python
    [[ -x $IMDM_PYTHON ]] || IMDM_PYTHON=$(command -v python3)
fi
# When this script has itself warned of the time limit: a shorter limit is refused.
IMDM_WARNING_S=${IMDM_WARNING_S:-$(sed -n 's/^#SBATCH.* --signal=B:USR1@\([0-9]*\).*/\1/p' "$0")}
IMDM_RESTARTS=${IMDM_RESTARTS:-3}
export IMDM_HOME IMDM_PYTHON IMDM_WARNING_S PYTHONPATH="$IMDM_HOME${PYTHONPATH:+:$PYTHONPATH}"
# Settings for a job as it is submitted, without a change to any file: IMDM_OVERRIDES="train.steps=10 redi/train.seed=1"
read -ra IMDM_OVERRIDE_LIST <<<"${IMDM_OVERRIDES:-}"
