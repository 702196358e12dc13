"""`imdm_dist evaluate`: tables of models by step count."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("evaluate")
