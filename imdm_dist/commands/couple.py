"""Make a coupling: pairs (start, noise seed, result) by rollouts of a teacher, in shards.

As typed without --teacher it uses the embedded text and trains a small teacher first if there is none.
Start the same command on as many machines as you like, or under srun: workers share the folder and take missing shards.
A killed run goes on when the command is given again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from imdm_dist.commands.arguments import CONFIGS, add_overrides
from imdm_dist.config import Config, identifying_settings, load_config, load_over, to_dict
from imdm_dist.exit_codes import EXIT_STOPPED
from imdm_dist.files import hash_json
from imdm_dist.problems import refuse
from imdm_dist.signals import heed_signals, leaving_at_signals

EXAMPLES = """examples:
  imdm_dist couple --shards 64
  imdm_dist couple --teacher runs/teacher --pairs 100000 --shards 256 --noise-policy fixed
  imdm_dist couple --status runs/coupling-0a1b2c3d
  sbatch --array=0-3 slurm/gen_coupling.sh --shards 64        four jobs, or --nodes=4 for one of four machines"""
EMBEDDED_TEACHER = Path("runs/embedded/teacher")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="YAML file of settings (default: the teacher's own data settings)")
    parser.add_argument("--teacher", help="run folder or checkpoint that rolls out")
    parser.add_argument("--out", help="coupling folder (default: beside the teacher, named by the settings)")
    parser.add_argument("--pairs", type=int, help="pairs in all (default: 6400)")
    parser.add_argument("--shards", type=int, help="files they are split over (default: 64)")
    parser.add_argument("--steps", type=int, help="sampling steps of a rollout (default: 1024)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--perturbed", dest="kind", action="store_const", const="perturbed", help="start from masked text"
    )
    kind.add_argument("--plain", dest="kind", action="store_const", const="plain", help="start from masks alone")
    parser.add_argument("--noise-policy", help="posterior, fixed or fresh mask noise between steps")
    parser.add_argument("--prompts", help="text file, one prompt a line, to be completed (goes with --plain)")
    parser.add_argument("--status", metavar="FOLDER", help="say how far all workers are, and stop")
    parser.add_argument("--workers", type=int, help="processes on this machine (default: one a core or GPU)")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    if arguments.status:
        from imdm_dist.chain.stages.coupling import progress_line

        print(progress_line(Path(arguments.status)))
        return
    heed_signals()
    from imdm_dist.chain.rollouts import generate_coupling, worker_count
    from imdm_dist.chain.stages.coupling import coupling_problems
    from imdm_dist.data import prepare
    from imdm_dist.data.prompts import read_prompts
    from imdm_dist.parallel.environment import this_process
    from imdm_dist.training.inputs import given_config
    from imdm_dist.training.loop import train

    if arguments.config and not arguments.teacher:
        raise ValueError("--config goes with --teacher: name the run that is to roll out, e.g. --teacher runs/teacher")
    workers = worker_count(arguments.workers)
    teacher = Path(arguments.teacher or EMBEDDED_TEACHER)
    embedded = load_config(Config, CONFIGS / "embedded.yaml")
    # The teacher's data under file, options and overrides, in rising precedence.
    learned = given_config(teacher, "--teacher").data if arguments.teacher else embedded.data
    config = load_over(replace(Config(), data=learned), arguments.config, _settings(arguments))
    place = Path(arguments.out).parent if arguments.out else teacher.parent
    # What is wrong is said before a teacher is trained, or text is packed.
    of_pairs = coupling_problems(config, learned, arguments.teacher, place)
    refuse([*_prompt_problems(arguments.prompts, config), *of_pairs])
    if not arguments.teacher:
        print(f"no --teacher given: using {teacher} on the embedded text, trained if it is missing", file=sys.stderr)
        if not train(embedded, teacher):
            raise SystemExit(EXIT_STOPPED)
    identity: dict[str, Any] = {
        "teacher": str(teacher),
        "data": to_dict(config.data),
        "coupling": identifying_settings(config.coupling),
    }
    prompts_PL = None
    if arguments.prompts:
        data = prepare(config.data)
        assert data.tokenizer is not None
        prompts_PL = read_prompts(arguments.prompts, data.tokenizer, data.train.length)
        identity["prompts"] = prompts_PL.tolist()
    folder = Path(arguments.out or teacher.parent / f"coupling-{hash_json(identity)[:8]}")
    if this_process().rank == 0:
        print(f"{config.coupling.pairs} pairs in {config.coupling.shards} shards go to {folder}", file=sys.stderr)
    with leaving_at_signals():
        generate_coupling(config, teacher, folder, workers, prompts_PL)
    if this_process().rank == 0:
        print(folder)


def _settings(arguments: argparse.Namespace) -> list[str]:
    """The command line's settings; those behind the options' names come first, so plain overrides win."""
    named = {name: getattr(arguments, name) for name in ("pairs", "shards", "steps", "kind", "noise_policy")}
    return [*(f"coupling.{name}={value}" for name, value in named.items() if value is not None), *arguments.overrides]


def _prompt_problems(prompts: str | None, config: Config) -> Iterator[str]:
    """What is wrong with the prompts, if anything, as far as it is seen before data are packed."""
    if prompts is None:
        return
    if not Path(prompts).is_file():
        yield f"there is no prompt file {prompts}: give a text file with one prompt a line"
    if config.data.source == "synthetic":
        yield "--prompts needs text: the synthetic language has no tokenizer"
    if config.coupling.kind != "plain":
        yield "--prompts are completed from masks, not from perturbed text: add --plain"
