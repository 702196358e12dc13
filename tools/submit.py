"""`imdm_dist submit`: a training run through Submitit."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("submit")
