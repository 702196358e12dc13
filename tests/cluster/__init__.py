"""A SLURM cluster of several nodes on this one host, and tests that need one."""
