"""`imdm_dist demo`: the whole method in minutes on a laptop."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("demo")
