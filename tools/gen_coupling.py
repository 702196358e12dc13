"""`imdm_dist couple`: a coupling by rollouts of a teacher."""

from imdm_dist.commands.main import tool

if __name__ == "__main__":
    tool("couple")
