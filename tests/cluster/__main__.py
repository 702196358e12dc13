"""Bring a SLURM cluster for tests up and down on this Debian host, as root."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys

from tests.cluster import daemons, host
from tests.cluster.layout import Layout, default_folder, load_layout

EXAMPLE = """example, from the root of the repository:
  python -m tests.cluster up
  eval "$(python -m tests.cluster env)" && srun --nodes 2 hostname
  python -m tests.cluster kill node2      # node2 and all that runs on it is gone, as by a loss of power
  python -m tests.cluster revive node2
  python -m tests.cluster down
State and logs are in $IMDM_SLURM_DIR, or imdm-slurm in the system's folder for temporary files."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    starting = commands.add_parser("up", help="install what is missing, start what does not run")
    starting.add_argument("--nodes", type=int, default=Layout.nodes, help="number of nodes (%(default)s)")
    starting.add_argument("--gpus", type=int, default=Layout.gpus, help="counted GPUs per node (%(default)s)")
    commands.add_parser("down", help="stop everything and remove the state folder")
    for name, meaning in (("kill", "let a node fail"), ("revive", "let it come back")):
        commands.add_parser(name, help=meaning).add_argument("node", metavar="NODE")
    commands.add_parser("env", help="print the shell line by which sbatch, srun and others find the cluster")
    arguments = parser.parse_args()
    folder = default_folder()
    if arguments.command == "up":
        layout = Layout(folder, nodes=arguments.nodes, gpus=arguments.gpus)
        with host.in_use(layout):
            host.up(layout)
        print(f'{layout.nodes} nodes are up; to use them: eval "$(python -m tests.cluster env)"')
        return
    found = load_layout(folder)
    if arguments.command == "down":
        with host.in_use(found or Layout(folder)):
            host.down(folder)
        return
    if found is None:
        raise ValueError(f"no cluster is up in {folder}: python -m tests.cluster up")
    if arguments.command == "env":
        print(f"export SLURM_CONF={shlex.quote(str(found.client_conf))}")
        return
    if arguments.node not in found.names:
        raise ValueError(f"no node is called {arguments.node}: choose one of {' '.join(found.names)}")
    if arguments.command == "kill":
        daemons.kill_node(found, arguments.node)
    else:
        daemons.start_node(found, arguments.node)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"error: {error}")
