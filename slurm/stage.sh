#!/usr/bin/env bash
# A job of tools/pipeline.py run, which gives its options and arguments; not meant to be submitted by hand.
. "$IMDM_HOME/slurm/environment.sh"
exec "$IMDM_PYTHON" "$IMDM_HOME/tools/pipeline.py" here "$@"
