"""`imdm_dist import`: a run out of a published checkpoint."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("import")
