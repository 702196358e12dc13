"""`imdm_dist prepare-data`: text packed into token files."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("prepare-data")
