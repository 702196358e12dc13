"""`imdm_dist train`: one stage trained."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("train")
