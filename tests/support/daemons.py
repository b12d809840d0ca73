"""A daemon to talk to: its parts in this process, or ``crawler serve`` as a process of its own."""

import asyncio
import contextlib
import functools
import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import aiohttp
import jsonschema
import yaml

from crawler.config.load import load
from crawler.crawl.wiring import open_crawl
from crawler.service import api as api_module
from crawler.service.api import Control
from crawler.service.health import open_vitals
from crawler.service.listener import open_listener
from crawler.service.reload import Changes
from crawler.service.steered import Direct
from support.programs import CLEAN, LOCAL

ROOMY = "8GiB"
"""A memory limit for crawls in the process of the tests, which may have grown to any size by then."""
PLAIN = {
    "allow_net": ("127.0.0.0/8",),
    "robots": False,
    "delay": 0,
    "listen": "127.0.0.1:0",
    "min_free_disk": 0,
    "memory_limit": ROOMY,
}


OPENAPI = yaml.load((Path(api_module.__file__).parent / "openapi.yaml").read_text(), yaml.CSafeLoader)


def as_described(method, path, status, mime, told):
    """A response is what ``openapi.yaml`` says of it, and holds no member of which that says nothing."""
    operation = OPENAPI["paths"].get(path.partition("?")[0], {}).get(method.lower())
    if operation is None:
        return
    by_status = operation["responses"]
    described = _described(path.partition("?")[0], method.lower(), str(status) if str(status) in by_status else "default", mime)
    described.validate(told)
    if members := described.schema.get("properties"):
        assert told.keys() <= members.keys(), f"{method} {path} {status}: {told}"


@functools.cache
def _described(path, method, status, mime):
    answer = _resolved(OPENAPI["paths"][path][method]["responses"][status])
    schema = _resolved(answer["content"][mime]["schema"])
    return jsonschema.Draft202012Validator({**schema, "components": OPENAPI["components"]})


def _resolved(part):
    name = part.get("$ref", "").removeprefix("#/components/").split("/")
    return OPENAPI["components"][name[0]][name[1]] if len(name) > 1 else part


class Daemon:
    """``session`` asks the control API of ``crawl``."""

    def __init__(self, crawl, control, port, session):
        self.crawl, self.control, self.port, self.session = crawl, control, port, session

    async def ask(self, method, path, **options):
        """(status, JSON)"""
        async with self.session.request(method, path, **options) as answer:
            told = await answer.json(content_type=None)
            as_described(method, path, answer.status, answer.content_type, told)
            return answer.status, told

    async def until(self, **wanted):
        """Wait until the status says so."""
        async with asyncio.timeout(60):
            while True:
                _, told = await self.ask("GET", "/v1/status")
                if all(told[key] == value for key, value in wanted.items()):
                    return told
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def daemon(root, **settings):
    config = load(PLAIN | {"output": str(root)} | settings, environ={}).config
    async with open_crawl(config, endless=True) as crawl, open_vitals(crawl) as vitals:
        steered = Direct(crawl)
        changes = Changes(steered, root)
        control = Control(
            steered,
            root,
            registry=crawl.metrics.registry,
            vitals=vitals,
            changes=changes,
        )
        async with open_listener(config.listen, control.application()) as port, asyncio.TaskGroup() as tasks:
            running = tasks.create_task(crawl.run())
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                yield Daemon(crawl, control, port, session)
            crawl.drain("test")
            await running


class Served:
    """``crawler serve`` as a process."""

    def __init__(self, process, listen):
        self.process, self.listen = process, listen

    def ask(self, method, path, data=None, headers=()):
        request = urllib.request.Request(f"http://{self.listen}{path}", data, dict(headers), method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def said(self, pattern):
        """Read its log until a line matches."""
        for line in self.process.stderr:
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern!r} was never said")


@contextlib.contextmanager
def served(root, *arguments, environ=None):
    """Ready when entered; killed at the end if it still runs."""
    command = [
        sys.executable,
        "-m",
        "crawler",
        "serve",
        "--data",
        str(root),
        "--listen",
        "127.0.0.1:0",
        "--min-free-disk",
        "0",
        "--log-format",
        "text",
        *(() if "--processes" in arguments or (root / "frontier").exists() else ("--processes", "1")),
    ]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environ = CLEAN | (environ or {})
    with subprocess.Popen([*command, *LOCAL, *arguments], env=environ, text=True, **pipes) as process:
        try:
            daemon = Served(process, "")
            daemon.listen = "127.0.0.1:" + daemon.said(r"control API on port (\d+)")[1]
            yield daemon
        finally:
            process.kill()
