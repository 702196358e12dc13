"""All that is to be known of a GPU in a quarter of an hour: draws, numbers, sampler, training, speed, memory.

python benchmarks/gpu.py --out runs/gpu

Each part is a process of its own that ends after so many seconds; all together take less than nine minutes. What a part
has found is in `gpu.json` and `gpu.md` of the folder as soon as the part is over, also if it failed or was cut off.
The exit code is 0 if every check of every part has passed. `--quick` runs the same code in tiny shapes, on a CPU in
well under a minute.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # run as a file
    sys.path.insert(0, str(ROOT))

from benchmarks.gpu_parts import PARTS, part  # noqa: E402
from imdm_dist.files import publish_file, read_record, write_json  # noqa: E402

Start = Callable[[str, Path, bool], str | None]
"""Runs a part, given its folder and whether quickly; returns why it did not come to its end."""


def run_here(name: str, folder: Path, quick: bool) -> str | None:
    """Run a part in this process; it leaves `report.json` in its folder."""
    from benchmarks.gpu_parts.report import Report

    report = Report(folder / "report.json", folder, quick)
    report.write()
    try:
        part(name)(report)
    except Exception as error:  # whatever it is, the next part is run
        return f"{type(error).__name__}: {error}"
    report.finished = True
    report.write()
    return None


def run_apart(name: str, folder: Path, quick: bool) -> str | None:
    """Run a part in a process of its own, for as long as it may take."""
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--out", str(folder)]
    return bounded([*command, *(["--quick"] if quick else [])], PARTS[name][0], folder / "log.txt")


def bounded(command: list[str], seconds: float, log: Path) -> str | None:
    """Run a command, and end it with all that it started after some seconds; return why it did not end well."""
    # One process on one machine needs no network but the loopback.
    environment = {"GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"} | dict(os.environ)
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True, cwd=ROOT
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"cut off after {seconds:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return None if code == 0 else f"exit code {code}: {lines[-1] if lines else 'no word'}"


def benchmark(out: Path, quick: bool, start: Start, names: list[str]) -> bool:
    """Run parts one after the other and write what is found to a folder; return whether all checks have passed."""
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    content: dict[str, Any] = {"command": command, "quick": quick, "device": None, "versions": {}, "parts": {}}
    for name in names:
        print(f"{name} (at most {PARTS[name][0]} s)", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as place:
            cause = start(name, Path(place), quick)
            found = read_record(Path(place) / "report.json") or {"rows": [], "finished": False, "seconds": None}
            log = Path(place) / "log.txt"
            if cause is not None and log.exists():
                found["log"] = log.read_text(encoding="utf-8", errors="replace")[-6000:]
        for key in ("device", "versions", "cuda"):
            if key in found:
                content[key] = found.pop(key)
        checks = [row["passed"] for row in found["rows"] if "passed" in row]
        found |= {"cause": cause, "passed": cause is None and found["finished"] and all(checks) and bool(checks)}
        content["parts"][name] = found
        content["passed"] = all(content["parts"].get(each, {}).get("passed", False) for each in names)
        write_json(out / "gpu.json", content)
        with publish_file(out / "gpu.md") as aside:
            aside.write_text(table(content), encoding="utf-8")
    return bool(content["passed"])


def table(content: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    cuda = f", CUDA {content['cuda']}" if content.get("cuda") else ""
    lines = [f"# {content['device']}", "", f"`{content['command']}`", "", f"{versions}{cuda}", ""]
    lines += ["| Part | What | Found | Limit | |", "|:---|:---|---:|---:|:---|"]
    for name, found in content["parts"].items():
        for row in found["rows"]:
            verdict = "" if row.get("passed") is None else "passed" if row["passed"] else "FAILED"
            limit = f"{row['limit']:.3g}" if "limit" in row else ""
            value = "not finite" if row["found"] is None else f"{row['found']:,.4g} {row.get('unit', '')}".strip()
            lines.append(f"| {name} | {row['what']} | {value} | {limit} | {verdict} |")
        cause = (found["cause"] or "").replace("|", "/").replace("\n", " ")
        verdict = "passed" if found["passed"] else "FAILED"
        lines.append(f"| {name} | {cause or 'whole part'} | {found['seconds']} s | {PARTS[name][0]} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: a rehearsal, on a CPU too")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # of this program, to itself
    arguments = parser.parse_args()
    if arguments.part:
        cause = run_here(arguments.part, arguments.out, arguments.quick)
        print(cause or "done")
        return cause is not None
    passed = benchmark(arguments.out, arguments.quick, run_here if arguments.quick else run_apart, arguments.only)
    print((arguments.out / "gpu.md").read_text(encoding="utf-8"))
    return not passed


if __name__ == "__main__":
    sys.exit(main())
