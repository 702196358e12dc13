"""`imdm_dist sync`: runs that were recorded offline, sent to Weights & Biases."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("sync")
