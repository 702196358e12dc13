"""`imdm_dist run`: a chain of stages."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("run")
