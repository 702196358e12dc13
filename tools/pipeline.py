"""`imdm_dist run`, `status`, `cancel` and `provenance` in other words.

python tools/pipeline.py run CHAIN                          imdm_dist run CHAIN --slurm
python tools/pipeline.py here CHAIN                         imdm_dist run CHAIN --in-job
python tools/pipeline.py run|here CHAIN --local             imdm_dist run CHAIN --processes 1
python tools/pipeline.py status|cancel|provenance ...       imdm_dist status|cancel|provenance ...
"""

import sys

from imdm_dist.commands.main import tool

PLACES = {"run": "--slurm", "here": "--in-job"}

if __name__ == "__main__":
    word, *rest = sys.argv[1:] or ["--help"]
    if word not in (*PLACES, "status", "cancel", "provenance"):
        print(__doc__)
        sys.exit(word not in ("-h", "--help") and 2)
    if word in PLACES:
        local = "--local" in rest
        place = "--processes=1" if local else PLACES[word]
        if local and any(option.startswith("--processes") for option in rest):
            place = ""
        rest = [*filter(None, [place]), *(option for option in rest if option != "--local")]
    tool("run" if word in PLACES else word, rest, f" {word}")
