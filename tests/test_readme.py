"""The README is tested: its commands run, its Python runs, and what it lists is what there is."""

import ast
import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import generate_latest
from support.programs import CLEAN, port_of_its_own
from support.sinful import Site, running

from crawler.cli.main import COMMANDS
from crawler.config.crawl_toml import IDENTITY
from crawler.config.sections import Config
from crawler.core.errors import Exit
from crawler.core.model import OutcomeName
from crawler.crawl.metrics import Metrics, Readings
from crawler.output.results import FIELDS
from crawler.resources.memory_budget import Use

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S)
COMMAND_LINES = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines() if line.strip()]
CHECK = "tests/check"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A directory as the reader has it, a site in place of example.org, and ``crawler`` on the path."""
    where = tmp_path_factory.mktemp("reader")
    (where / "deploy").symlink_to(ROOT / "deploy")
    (where / "bin").mkdir()
    script = where / "bin" / "crawler"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m crawler "$@"\n')
    script.chmod(0o755)
    (where / "listen").write_text(f"127.0.0.1:{port_of_its_own()}")
    metrics = f"127.0.0.1:{port_of_its_own()}"
    with running(Site()) as site:
        address = f"127.0.0.1:{site.ports['http']}"
        (where / "urls.txt").write_text(f"# a list\n\nhttp://{address}/good/1\nhttp://{address}/good/2\n")
        yield where, address, metrics


def localised(text: str, where: Path, address: str, metrics: str) -> str:
    return (
        text.replace("https://example.org", f"http://{address}")
        .replace("127.0.0.1:8000", address)
        .replace("127.0.0.1:9701", metrics)
        .replace("file:///tmp/", f"{where.as_uri()}/")
    )


def environ_of(where: Path) -> dict[str, str]:
    environ = CLEAN | {"PATH": f"{where / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    # the reader's hosts are public and at leisure, and the usual ports free; the test's site is on this machine
    environ |= {"CRAWLER_ALLOW_NET": "127.0.0.0/8", "CRAWLER_DELAY": "0", "CRAWLER_ROBOTS": "false"}
    return environ | {"CRAWLER_LISTEN": (where / "listen").read_text()}


def run(command: list[str] | str, where: Path) -> subprocess.CompletedProcess[str]:
    options = {
        "cwd": where,
        "env": environ_of(where),
        "stdin": subprocess.DEVNULL,
        "capture_output": True,
        "text": True,
        "timeout": 90,
    }
    return subprocess.run(command, shell=isinstance(command, str), check=False, **options)


def test_every_command_of_the_readme_runs(scratch):
    """In the order in which they stand, as one reader would try them."""
    where = scratch[0]
    with contextlib.ExitStack() as stack:
        daemon = None
        for line in COMMAND_LINES:
            if CHECK in line:
                continue  # it runs this very test: see the next one
            command = localised(line.rpartition("&& .venv/bin/")[2], *scratch)
            if command.startswith("crawler serve"):
                daemon = stack.enter_context(serving(command, where))
                continue
            ended = run(command, where)
            assert ended.returncode == 0, f"{line}\n{ended.stdout}{ended.stderr}"
        assert daemon is not None and daemon.wait(60) == 0, "drained"


@contextlib.contextmanager
def serving(command: str, where: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon, once it is ready."""
    with (where / "daemon.log").open("wb") as log:
        options = {"cwd": where, "env": environ_of(where), "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        with subprocess.Popen(shlex.split(command), **options) as process:
            try:
                while run("crawler healthcheck --ready", where).returncode:
                    assert process.poll() is None, (where / "daemon.log").read_text()
                yield process
            finally:
                process.kill()


def test_the_command_that_checks_everything_is_the_one_that_ci_runs():
    (line,) = [line for line in COMMAND_LINES if CHECK in line]
    assert line == "python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]' && tests/check"
    assert "grep -m1 'tests/check' README.md" in (ROOT / ".ci" / "run").read_text()
    assert README.index(line) == README.index(CHECK) - line.index(CHECK), "CI takes the first line that names it"
    check = (ROOT / CHECK).read_text()
    for part in ("ruff check .", "ruff format --check .", "-m mypy", "-m pytest"):
        assert part in check


def test_all_setup_stands_on_the_first_screen_in_two_commands():
    setup = [number for number, line in enumerate(README.splitlines()) if ".venv/bin/pip install" in line]
    assert len(setup) == 2 and max(setup) < 30


def test_the_python_of_the_readme_runs(scratch):
    where = scratch[0]
    assert run(localised("crawler run -i urls.txt -o out/", *scratch), where).returncode == 0
    for block in (block for language, block in BLOCKS if language == "python"):
        ended = run([sys.executable, "-c", localised(block, *scratch)], where)
        assert ended.returncode == 0 and f"http://{scratch[1]}/good/1" in ended.stdout, ended.stderr


def test_the_python_of_the_readme_runs_where_bodies_are_kept_no_longer(scratch, tmp_path):
    where = scratch[0]
    words = ["crawler", "run", "-i", "urls.txt", "--archive", "files"]
    assert run([*words, "-o", str(tmp_path / "out")], where).returncode == 0
    for body in (tmp_path / "out" / "files").rglob("*.*"):
        body.unlink()
    assert run(["crawler", "retire", str(tmp_path / "out"), "--missing"], where).returncode == 0
    [block] = [block for language, block in BLOCKS if language == "python" and "crawler.read" in block]
    ended = run([sys.executable, "-c", block.replace("out/", str(tmp_path / "out"))], where)
    assert ended.returncode == 0 and f"http://{scratch[1]}/good/1 (its body" in ended.stdout, ended.stderr


def test_every_promise_names_tests_that_exist():
    promises = README.partition("## Promises")[2].partition("\n## ")[0]
    for promise in re.split(r"^\d\. ", promises, flags=re.M)[1:]:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        assert named, promise
        for file, name in named:
            tree = ast.parse((ROOT / file).read_text())
            functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
            assert name in functions, f"{file} has no {name}"


def test_commands_and_flags_of_the_readme_exist_and_every_command_is_shown():
    assert set(re.findall(r"(?m)^(?:.*&& \.venv/bin/)?crawler (\w+)", "\n".join(COMMAND_LINES))) == set(COMMANDS)
    text = re.sub(r"`python tests/benchmarks/[^`]*`", "", README)
    flags = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text))
    settings = {key.replace("_", "-") for key in Config.fields}
    commands = {
        "final",
        "format",
        "kind",
        "files",
        "data",
        "memory",
        "outcome",
        "mime",
        "no-robots",
        "config",
        "ready",
        "tag",
        "missing",
        "change",
        "match",
        "older-than",
        "html",
        "incomplete",
        "to",
        "status",
        "since",
        "stored",
    }
    assert flags - settings - commands <= {"max-"}, flags - settings - commands


def test_what_the_readme_lists_is_what_there_is():
    listed = README.partition("**Outcomes** are a closed set:")[2].partition(". Each")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(get_args(OutcomeName))
    rows = README.partition("| field | |\n")[2].partition("\n\n")[0]
    fields = {name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert fields == {"schema", *FIELDS}
    codes = README.partition("**Exit codes**:")[2].partition("\n\n")[0]
    assert {int(code) for code in re.findall(r"(?:^|· |\n)\s*(\d+) ", codes)} == {code.value for code in Exit}
    identity = README.partition("what the crawl *is* (")[2].partition(")")[0]
    assert tuple(re.findall(r"`(\w+)`", identity)) == IDENTITY


def test_the_metrics_that_the_readme_lists_are_those_there_are():
    table = README.partition("\n### Metrics\n")[2].partition("| --- | --- |\n")[2].partition("\n\n")[0]
    listed = [name for row in table.splitlines() for name in re.findall(r"`(\w+)(?:{([\w,]+)})?`", row.split("|")[1])]
    there_are = {}
    source = Readings(accounts={"store": Use(1, 1, 0)}, refused={"depth": 1})
    for line in generate_latest(Metrics(lambda: source).registry).decode().splitlines():
        if line.startswith("# TYPE crawler_"):
            there_are[name := line.split()[2]] = set()
        elif line.startswith("crawler_") and name != "crawler_build_info":
            there_are[name] |= set(re.findall(r'(\w+)="', line)) - {"le"}
    assert len(listed) == len(dict(listed))
    assert {name: set(filter(None, labels.split(","))) for name, labels in listed} == there_are


def test_links_within_the_repository_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README + (ROOT / "CHANGELOG.md").read_text()):
        assert (ROOT / target).exists(), target


def test_the_architecture_section_is_short():
    assert len(README.partition("## Architecture")[2].partition("\n## ")[0].splitlines()) <= 60


def test_the_queries_of_the_readme_can_be_asked(scratch):
    duckdb, _ = pytest.importorskip("duckdb"), pytest.importorskip("pyarrow")
    where = scratch[0]
    assert run(localised("crawler run -i urls.txt -o out/", *scratch), where).returncode == 0
    assert run("crawler export out/ --format parquet --to queried.parquet", where).returncode == 0
    [queries] = [block for language, block in BLOCKS if language == "sql"]
    for query in queries.strip().splitlines():
        duckdb.sql(query.replace("rows.parquet", str(where / "queried.parquet"))).fetchall()
