"""`imdm_dist sample`: text from a trained model."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("sample")
