"""The command `imdm_dist`: a file for each subcommand, listed in `main.py`."""
