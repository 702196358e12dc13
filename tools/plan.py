"""`imdm_dist plan`: what a run needs before it is started."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("plan")
