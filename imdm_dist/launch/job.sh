#!/usr/bin/env bash
# A job of `imdm_dist run --slurm`, which sets IMDM_HOME and IMDM_PYTHON and gives the folder of the package and what
# `imdm_dist run --in-job` takes; not meant to be submitted by hand (slurm/stage.sh is).
if [[ -e $IMDM_HOME/slurm/site.sh ]]; then . "$IMDM_HOME/slurm/site.sh"; fi
export PYTHONPATH="$1${PYTHONPATH:+:$PYTHONPATH}"
exec "$IMDM_PYTHON" -m imdm_dist run --in-job "${@:2}"
