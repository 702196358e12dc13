"""The documentation says what is true: its commands run, its links lead somewhere, its settings and tests exist.

A block fenced as bash or python runs, in the order of the document, in a folder of the document's own.
An HTML comment above a block makes it small (`<!-- test: train.steps=2 -->`: arguments added to every
tool it calls) or says why it is not run (`<!-- test: skip (needs a network) -->`).
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from imdm_dist.config import Config
from imdm_dist.config.check import settings
from imdm_dist.data.tokenizer import load_tokenizer, train_bpe
from tests.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, ROOT / "README.md"]
BLOCK = re.compile(r"(?:<!-- test: (?P<note>[^\n]*?) -->\n)?```(?P<kind>bash|python)\n(?P<code>.*?)```", re.DOTALL)
SECTIONS = {name for name, _ in settings(Config) if "." not in name}
PROGRAM = "imdm_dist"
FILES = (".gz", ".json", ".jsonl", ".md", ".npy", ".parquet", ".py", ".safetensors", ".txt", ".yaml")


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- commands


def _work(code: str, arguments: list[str], home: str, environment: dict[str, str], log: str) -> None:
    """Run a tool, or python source if there are no arguments, in a process of its own that is warm already.

    Args:
        code: a tool's path, `imdm_dist`, or source.
    """
    output = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(home)
    os.environ |= environment
    sys.argv = arguments
    if code == PROGRAM:
        runpy.run_module(code, run_name="__main__", alter_sys=True)
    elif arguments:
        sys.path.insert(0, str(Path(code).parent))
        runpy.run_path(code, run_name="__main__")
    else:
        exec(compile(code, "block", "exec"), {"__name__": "__main__"})


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[multiprocessing.context.ForkServerContext]:
    """Processes that have imported what takes seconds; a fork of one is what a fresh `python` would be."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pytest", "deepspeed", "datasets", "transformers.models.gpt2", "pyarrow.parquet", "imdm_dist.chain.runner"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")  # a process that forks must not have touched a GPU
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf")))
        patch.delenv("IMDM_DATA", raising=False)
        yield context


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed data that all documents share, as all runs of a user do."""
    return tmp_path_factory.mktemp("cache")


def sentences(count: int) -> list[str]:
    words = shlex.split("the cat sat on a mat , and dogs ran home when it was raining in town")
    return [" ".join(words[(i * k + i // 3) % len(words)] for k in range(1, 9)) + " ." for i in range(1, count + 1)]


def write_texts(home: Path) -> None:
    """What a reader has: text and prompts of their own where they work, and corpora in ~/data."""
    (home / "train.txt").write_text("\n".join(sentences(600)) + "\n")
    (home / "valid.txt").write_text("\n".join(sentences(90)) + "\n")
    (home / "prompts.txt").write_text("the cat\ndogs ran\n")
    lm1b, owt, bert = (home / "data" / name for name in ("lm1b_heldout", "openwebtext", "bert_tokenizer"))
    for folder in (lm1b, owt, bert):
        folder.mkdir(parents=True)
    for number in (0, 10, 11, 12):
        with gzip.open(lm1b / f"news.en.heldout-{number:05d}-of-00050.gz", "wt") as file:
            file.write("\n".join(sentences(400)) + "\n")
    for name in ("train-000", "train-001", "valid"):
        with gzip.open(owt / f"{name}.jsonl.gz", "wt") as file:
            file.write("".join(json.dumps({"text": "\n".join(sentences(700))}) + "\n" for _ in range(3)))
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters), ".", ",", "'"]
    (bert / "vocab.txt").write_text("\n".join(entries) + "\n")
    train_bpe(sentences(300), 300, home / "bpe")
    (home / "data" / "gpt2_tokenizer").mkdir()
    load_tokenizer(str(home / "bpe")).fast.backend_tokenizer.model.save(str(home / "data" / "gpt2_tokenizer"))


def commands(code: str) -> Iterator[str]:
    """Commands of a bash block: continued lines joined, here-documents whole, comments left out."""
    lines = iter(code.replace("\\\n", " ").splitlines())
    for line in lines:
        if found := re.search(r"<<'(\w+)'", line):
            for more in lines:
                line += "\n" + more
                if more == found[1]:
                    break
        if line.strip() and not line.startswith("#"):
            yield line


Started = tuple[multiprocessing.context.ForkServerProcess, Path]
"""A process and the file of what it prints."""


class Reader:
    """Somebody who types a document's commands."""

    def __init__(self, context: multiprocessing.context.ForkServerContext, home: Path) -> None:
        self.context, self.home = context, home
        self.environment: dict[str, str] = {}

    def type(self, command: str, note: str) -> None:
        """Run one command, with the note's arguments if it is a tool."""
        words = shlex.split(command, comments=True)
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self.environment[name] = value.replace("~", str(self.home), 1)
        elif words[0] in (PROGRAM, "python"):
            target = words.pop() if words[-2:-1] == [">"] else None
            program = PROGRAM
            if words.pop(0) == "python":
                program = str(ROOT / words.pop(0))
                assert Path(program).is_file(), f"{command}: there is no {Path(program).relative_to(ROOT)}"
            said = self.run(program, [program, *words[: -1 if target else None], *shlex.split(note)])
            if target:
                (self.home / target).write_text(said)
        elif words[0] == "torchrun":
            # Read by torchrun itself; its processes are warm ones, with what it would give them.
            given = get_args_parser().parse_args([*words[1:], *shlex.split(note)])
            assert given.module and given.training_script == PROGRAM, f"{command}: what else is to be launched?"
            self.launch(int(given.nproc_per_node), [PROGRAM, *given.training_script_args])
        else:
            subprocess.run(["bash", "-ec", command], cwd=self.home, check=True, timeout=60)

    def run(self, code: str, arguments: list[str]) -> str:
        """Run a tool or python source to its end and return what it printed."""
        return self.end(self.start(code, arguments, {}), arguments)

    def launch(self, world: int, arguments: list[str]) -> None:
        """Run a tool in processes that are joined."""
        joined = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = [
            self.start(PROGRAM, arguments, joined | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(world)
        ]
        try:
            for rank in ranks:
                self.end(rank, arguments, 180)
        finally:
            for process, _ in ranks:
                process.kill()

    def start(self, code: str, arguments: list[str], environment: dict[str, str]) -> Started:
        """Start a tool or python source; what it prints goes into a file."""
        log = self.home / f"log{environment.get('RANK', '')}"
        log.unlink(missing_ok=True)
        given = (code, arguments, str(self.home), self.environment | environment, str(log))
        process = self.context.Process(target=_work, args=given)
        process.start()
        return process, log

    def end(self, started: Started, arguments: list[str], timeout: float = 120) -> str:
        """Wait for its end and return what it printed."""
        process, log = started
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
        said = log.read_text() if log.exists() else ""
        assert process.exitcode == 0, f"{' '.join(arguments) or 'a block'} gave {process.exitcode}: {said[-2000:]}"
        return said


@pytest.mark.parametrize("page", DOCS, ids=page_name)
def test_commands_run(page: Path, warm: multiprocessing.context.ForkServerContext, cache: Path, tmp_path: Path) -> None:
    write_texts(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "data").symlink_to(cache)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    reader = Reader(warm, tmp_path)
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        note = block["note"] or ""
        if note.startswith("skip"):
            assert re.fullmatch(r"skip \(.+\)", note), f"{page.name}: {note!r} gives no reason"
        elif block["kind"] == "python":
            reader.run(block["code"], [])
        else:
            for command in commands(block["code"]):
                reader.type(command, note)


def test_a_command_that_fails_is_noticed(warm: multiprocessing.context.ForkServerContext, tmp_path: Path) -> None:
    reader = Reader(warm, tmp_path)
    with pytest.raises(AssertionError, match="did you mean train.steps"):
        reader.type("imdm_dist config train.stps=1", "")
    with pytest.raises(AssertionError, match="did you mean config"):
        reader.type("imdm_dist confgi", "")
    with pytest.raises(AssertionError, match="there is no tools/nothing.py"):
        reader.type("python tools/nothing.py", "")
    with pytest.raises(subprocess.CalledProcessError):
        reader.type("cat nothing", "")


# --- what is named exists


def slug(heading: str) -> str:
    """Anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to {link}, which does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name} links to {link}, but there is no such heading"


def named_settings(text: str) -> Iterator[str]:
    """Settings in backticks, and those given to tools in blocks, run or not."""
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    words = [word for block in BLOCK.finditer(text) for word in re.split(r"[\s'\"/]+", block["code"])]
    for word in [*spans, *(word for word in words if "=" in word)]:
        name = re.match(r"[a-z_]+(\.[a-z0-9_]+)+(?==|$)", word)
        if name and name[0].partition(".")[0] in SECTIONS and not name[0].endswith(FILES):
            yield name[0]


def test_settings_are_found() -> None:
    text = "`train.steps`, `model.mask.kind=infinite`, `train.txt`, `np.load`\n```bash\npython x.py 'a/data.x=1'\n```"
    assert list(named_settings(text)) == ["train.steps", "model.mask.kind", "data.x"]


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / PROGRAM / "commands").glob("*.py"))], ids=page_name)
def test_what_means_something_to_a_shell_is_in_quotes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = [block["code"] for block in BLOCK.finditer(text)] if page.suffix == ".md" else [text]
    lines = [line for block in code for line in block.replace("\\\n", " ").splitlines() if f"{PROGRAM} " in line]
    for line in lines:
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
        assert not re.search(r"=\S*[\[\]*?{}]", bare), f"{page.name}: zsh does not take {line.strip()}"


@pytest.mark.parametrize("page", DOCS, ids=page_name)
def test_settings_exist(page: Path) -> None:
    known = {name for name, _ in settings(Config)}
    text = page.read_text(encoding="utf-8")
    own = set(re.findall(r"^    (\w+): \w+ = ", text, re.MULTILINE))  # of settings classes that the page writes
    unknown = {name for name in set(named_settings(text)) - known if name.rpartition(".")[2] not in own}
    assert not unknown, f"{page.name} names settings that do not exist: {sorted(unknown)}"


@pytest.mark.parametrize("page", DOCS, ids=page_name)
def test_files_and_tests_exist(page: Path) -> None:
    for span in re.findall(r"`((?:imdm_dist|tools|configs|tests)/[^`\s]+)`", page.read_text(encoding="utf-8")):
        path, _, test = span.partition("::")
        assert (ROOT / path).exists(), f"{page.name} names {path}, which does not exist"
        if test:
            assert f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf-8"), f"{page.name} names {span}"
