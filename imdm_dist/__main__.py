"""`python -m imdm_dist`: the command `imdm_dist` where it is not on the path."""

from imdm_dist.commands.main import main

if __name__ == "__main__":
    main()
