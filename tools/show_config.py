"""`imdm_dist config`: resolved settings."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("config")
