"""The parser processes: documents that crash, spin and swell, killed processes, cancelled callers, full queues."""

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import webs
from support.programs import LOCAL, crawler
from support.waiting import until

from crawler.config.sections import ParseConfig
from crawler.core.errors import StorageError
from crawler.crawl.outlinks import FUNCTION, Packed, ReadingOptions, encode
from crawler.frontier.rocksdb.reader import RocksReader
from crawler.parse.heavy_hosts import HeavyHosts
from crawler.parse.html import Options
from crawler.parse.pool import ParseFault, open_parser, pool_size
from crawler.policy.scope import ScopeRules

SOON = ParseConfig(parse_timeout=0.4)
MIB = 1 << 20


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def open_soon(parsers: int = 1, **more):
    return open_parser(SOON, parsers=parsers, preload="support.victims:act", **more)


def open_patient(parsers: int = 1, **more):
    """Where nothing is to overrun its deadline, on a machine that stalls either."""
    return open_parser(ParseConfig(parse_timeout=60.0), parsers=parsers, preload="support.victims:act", **more)


async def act(parser, *words: object):
    return await parser.call("support.victims:act", " ".join(map(str, words)).encode(), result=str)


@pytest.mark.parametrize("parsers", [0, 1, 2])
async def test_many_documents_have_each_its_own_answer(parsers):
    async with open_parser(ParseConfig(), parsers=parsers, preload="support.victims:echo") as parser:
        sizes = [n * 7919 % 90_000 for n in range(300)]
        calls = [parser.call("support.victims:echo", b"x" * size, n, None, [b"h"], result=list) for n, size in enumerate(sizes)]
        answers = await asyncio.gather(*calls)
        assert answers == [[size, n, None, [b"h"]] for n, size in enumerate(sizes)]
        stats = parser.stats()
        assert stats.documents == 300
        assert stats.processes == parsers
        assert stats.documents_waiting == stats.bytes_waiting == stats.callers_waiting == 0


@pytest.mark.parametrize("sin", ["abort", "segfault", "exit", "swell 500"])
async def test_a_document_that_ends_its_process_is_tried_once_more(sin):
    async with open_parser(ParseConfig(), parsers=1, preload="support.victims:act") as parser:
        answer = await act(parser, sin)
        assert isinstance(answer, ParseFault)
        assert answer.reason == "parse_crashed"
        assert parser.stats().restarts == 2
        assert await act(parser, "fine") == "fine"
        assert parser.stats().crashed == 1


@pytest.mark.parametrize("first", [("support.victims:keep", 40), ("support.victims:act", b"sleep 1")])
async def test_what_a_process_begins_with_is_no_documents_fault(first):
    """Neither the memory nor the time that it takes, in the first process nor in one that follows it; nor how large it is."""
    async with open_soon(memory_bytes=24 * MIB) as parser:
        parser.begin_with(*first, *(["x" * (1 << 20)] if first[1] == 40 else []))
        assert await act(parser, "fine") == "fine"
        assert parser.stats().restarts == 0
        assert isinstance(await act(parser, "exit"), ParseFault)
        assert await act(parser, "fine") == "fine"
        assert parser.stats().restarts == 2


async def test_a_process_that_cannot_begin_is_a_fault_of_the_installation():
    async with open_soon() as parser:
        parser.begin_with("support.victims:act", b"raise no such thing")
        with pytest.raises(RuntimeError, match="no such thing"):
            await act(parser, "fine")


@pytest.mark.parametrize("sin", ["spin", "stop", "sleep 30"])
async def test_a_document_that_overruns_its_deadline(sin):
    async with open_soon() as parser:
        assert await act(parser, sin) == ParseFault("parse_timeout")
        stats = parser.stats()
        assert (stats.timed_out, stats.crashed, stats.restarts) == (1, 0, 2)
        assert await act(parser, "fine") == "fine"


async def test_a_deadline_may_be_shorter_than_a_process_takes_to_start_or_longer_than_a_timer_runs():
    async with open_parser(ParseConfig(parse_timeout=0.001), parsers=1, preload="support.victims:act") as parser:
        assert await act(parser, "spin") == ParseFault("parse_timeout")
    async with open_parser(ParseConfig(parse_timeout=1e12), parsers=1, preload="support.victims:act") as parser:
        assert await act(parser, "fine") == "fine"


async def test_a_document_that_fails_once_is_not_blamed(tmp_path):
    async with open_patient() as parser:
        assert await act(parser, "once", tmp_path / "been") == "once"
        assert parser.stats().crashed == 0
        assert parser.stats().restarts == 1


async def test_an_exception_is_an_answer():
    """It would be the same again: no second try, the process lives on."""
    async with open_patient() as parser:
        assert await act(parser, "raise é") == ParseFault("parse_crashed", "ValueError: é")
        assert parser.stats().restarts == 0
    async with open_parser(SOON, parsers=0) as parser:
        assert await act(parser, "raise é") == ParseFault("parse_crashed", "ValueError: é")


async def test_in_the_loop_a_lack_of_ours_is_no_documents_fault():
    async with open_parser(SOON, parsers=0, preload="support.victims:act") as parser:
        with pytest.raises(StorageError) as caught:
            await parser.call("support.victims:lacking", b"", result=str)
        assert caught.value.errno == errno.EMFILE
        assert parser.stats().crashed == 0


@pytest.mark.parametrize(
    "end",
    [
        "OSError(23, 'Too many open files in system')",
        "ImportError('x.so: cannot open shared object file: Too many open files in system')",
    ],
)
async def test_a_lack_of_ours_in_the_middle_is_no_documents_fault(tmp_path, monkeypatch, end):
    """As where the machine has no descriptor left for a module that only few documents need."""
    armed = tmp_path / "armed"
    (tmp_path / "lacking.py").write_text(
        f"import os\ndef read(body):\n    if os.path.exists({str(armed)!r}):\n        os.unlink({str(armed)!r})\n"
        f"        raise {end}\n    return 'fine'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lacking", raising=False)
    for parsers in (1, 0):
        armed.touch()
        async with open_parser(ParseConfig(parse_timeout=60.0), parsers=parsers, preload="lacking:read") as parser:
            if not parsers:
                with pytest.raises(StorageError) as caught:
                    await parser.call("lacking:read", b"", result=str)
                assert caught.value.errno == errno.ENFILE
            assert await parser.call("lacking:read", b"", result=str) == "fine"
            assert (parser.stats().crashed, parser.stats().restarts) == (0, parsers)


async def test_documents_beside_a_hostile_one_are_all_answered():
    """200 good documents with 12 hostile ones among them, two processes: every good one has its answer."""
    sins = {n: ("abort", "spin", "swell 500", "raise x")[n % 4] for n in range(3, 200, 17)}
    async with open_soon(2) as parser:
        answers = await asyncio.gather(*(act(parser, sins.get(n, f"good{n}")) for n in range(200)))
        for n, answer in enumerate(answers):
            assert isinstance(answer, ParseFault) if n in sins else answer == f"good{n}"
        stats = parser.stats()
        assert stats.crashed + stats.timed_out == len(sins)
        assert stats.timed_out >= sum(sin == "spin" for sin in sins.values())  # others take long on a crowded machine
        assert (stats.documents_waiting, stats.bytes_waiting, stats.processes) == (0, 0, 2)


async def test_an_answer_too_long():
    async with open_patient() as parser:
        answer = await act(parser, "long", 9 * MIB)
        assert isinstance(answer, ParseFault)
        assert "bytes" in answer.detail
        assert await act(parser, "long", 5 * MIB) == "x" * 5 * MIB


@pytest.mark.parametrize(
    "frame",
    [
        *("ffffffff01" + "00" * 4, "0000000063" + "00" * 4, "0100000001" + "00" * 4 + "c1", "0000000000" + "00" * 4),
        *(2 * ("0000000001" + "00" * 4), "0100000001" + "0000c07f" + "c0", "0100000001" + "0000807f" + "c0"),
    ],
)
async def test_a_process_taken_over_cannot_confuse_the_crawl(frame):
    """Whatever it sends: an endless frame, an unknown status, no msgpack, a second greeting, answers nobody asked for, seconds
    that are no number or without end."""
    async with open_soon() as parser:
        answer = await act(parser, "forge", frame)
        assert isinstance(answer, ParseFault)
        assert await act(parser, "fine") == "fine"


async def test_a_killed_process_loses_nothing():
    async with open_patient(2) as parser:
        calls = [asyncio.ensure_future(act(parser, f"sleep 0.00{n % 9}")) for n in range(400)]
        for _ in range(6):
            before = parser.stats()
            await until(lambda: parser.stats().busy)
            os.kill(parser.pids()[0], signal.SIGKILL)
            await until(lambda before=before: parser.stats().restarts > before.restarts)
            await until(lambda before=before: parser.stats().documents > before.documents + 40)
        assert await asyncio.gather(*calls) == ["sleep"] * 400
        assert parser.stats().crashed == 0
        assert parser.stats().restarts == 6


async def test_processes_ignore_what_their_parent_is_told():
    async with open_patient() as parser:
        pid = await parser.call("support.victims:process", result=int)
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, name)
        assert await parser.call("support.victims:process", result=int) == pid


async def test_restart_gives_new_processes_and_blames_nobody():
    async with open_patient(2) as parser:
        calls = []
        while parser.stats().busy < 2:  # one may be late to start
            calls.append(asyncio.ensure_future(act(parser, "sleep 0.05")))
            await asyncio.sleep(0.01)
        old = set(parser.pids())
        parser.restart()
        parser.restart()
        assert await asyncio.gather(*calls) == ["sleep"] * len(calls)
        assert not old & set(parser.pids())


async def test_a_process_that_has_grown_is_replaced():
    async with open_patient() as parser:
        first = await parser.call("support.victims:keep", 40, result=int)
        assert first == await parser.call("support.victims:process", b"x" * 2 * MIB, result=int), (
            "it is looked at after a document"
        )
        assert first != await parser.call("support.victims:process", result=int)
        assert parser.stats().crashed == 0


async def test_cancelled_callers_leave_nothing_behind():
    async with open_patient(waiting_bytes_max=300_000) as parser:
        await act(parser, "fine")
        calls = [asyncio.ensure_future(parser.call("support.victims:act", b"sleep 0.3", result=str))]
        calls += [asyncio.ensure_future(parser.call("support.victims:echo", b"x" * 100_000, result=list)) for _ in range(30)]
        await until(lambda: parser.stats().callers_waiting > 20)
        for call in calls[::2]:
            call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends[::2])
        assert ends[1::2] == [[100_000]] * 15
        assert parser.stats()[2:5] == (0, 0, 0)


async def test_waiting_bytes_are_bounded_and_a_big_document_still_passes():
    async with open_patient(waiting_bytes_max=1 * MIB) as parser:
        peak = 0

        async def send(size: int) -> None:
            assert await parser.call("support.victims:echo", b"x" * size, result=list) == [size]

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, parser.stats().bytes_waiting)
                await asyncio.sleep(0)

        watcher = asyncio.ensure_future(watch())
        await asyncio.gather(*(send(size) for size in [90_000] * 60 + [4 * MIB] + [90_000] * 60))
        watcher.cancel()
        assert 500_000 < peak <= 4 * MIB + 100
        assert parser.stats()[2:5] == (0, 0, 0)


async def test_small_documents_do_not_wait_for_all_the_large_ones_before_them():
    """One host's, as it may be, in the queue and before its door."""
    ended: list[str] = []

    async with open_patient(waiting_bytes_max=700_000) as parser:

        async def send(kind: str, body: bytes) -> None:
            assert await parser.call("support.victims:act", body, result=str)
            ended.append(kind)

        large = [asyncio.ensure_future(send("large", b"sleep 0.1" + b" " * 300_000)) for _ in range(8)]
        await until(lambda: parser.stats().callers_waiting == 6 and parser.stats().busy)
        await asyncio.gather(*(send("small", b"fine") for _ in range(50)))
        assert ended.count("large") <= 2
        await asyncio.gather(*large)
        assert parser.stats()[2:5] == (0, 0, 0)


async def test_hosts_whose_documents_take_long_leave_most_of_the_time_to_the_others():
    """However many of a domain there are, and whatever light ones stand between."""
    ended: list[str] = []

    async with open_soon() as parser:

        async def read(host: str, *words: object) -> None:
            async with parser.turn(host):
                assert await parser.call("support.victims:act", " ".join(map(str, words)).encode(), result=str, host=host)
            ended.append(words[0])

        await read("0.heavy.test", "spin")
        await read("0.heavy.test", "fine")
        ended.clear()
        heavy = [asyncio.ensure_future(read(f"{n}.heavy.test", "spin")) for n in range(8)]
        await until(lambda: parser.stats().busy and parser.stats().callers_waiting == 7)
        for _ in range(20):
            await read("other.test", "fine")
        assert ended.count("spin") <= 2  # nothing is known of the others before the first of theirs is read
        for task in heavy:
            task.cancel()
        await asyncio.gather(*heavy, return_exceptions=True)
        assert parser.stats()[2:5] == (0, 0, 0)


async def test_hosts_whose_documents_take_long_have_all_processes_where_nobody_else_comes():
    """As in the crawl of one site. Once others come, one is kept for these."""
    heavy = HeavyHosts(2)
    heavy.took("heavy.test", 1.0)
    async with heavy.turn("heavy.test"):
        pass

    async def read() -> None:
        async with heavy.turn("heavy.test"):
            pass

    async with heavy.turn("heavy.test"):
        second = asyncio.ensure_future(read())
        await until(second.done)
    heavy.took("other.test", 0.01)
    await read()
    async with heavy.turn("heavy.test"):
        third = asyncio.ensure_future(read())
        await until(lambda: heavy.waiting)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not third.done()
    await third


async def test_leaving_the_context_ends_everything():
    """Also in the middle of work; who still waits is not kept waiting."""
    async with open_parser(ParseConfig(), parsers=2, preload="support.victims:act") as parser:
        calls = [asyncio.ensure_future(act(parser, "spin")) for _ in range(5)]
        await until(lambda: parser.stats().busy == 2)
        pids = parser.pids()
        for call in calls:
            call.cancel()
    assert not any(map(alive, pids))
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("parser")]


async def test_an_error_in_the_context_comes_out_as_it_is():
    with pytest.raises(ZeroDivisionError):
        async with open_patient():
            raise ZeroDivisionError


async def test_a_function_that_does_not_exist_ends_the_crawl():
    async with open_parser(SOON, parsers=1, preload="no_such_module:name") as parser:
        with pytest.raises(RuntimeError, match="no_such_module"):
            await act(parser, "fine")
        with pytest.raises(RuntimeError, match="no_such_module"):
            await act(parser, "fine")


async def test_no_descriptor_for_a_process_is_our_own_trouble():
    """The caller is told so (never a ParseFault), and it works again when there are some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        async with open_patient(2) as parser:
            with pytest.raises(StorageError) as caught:
                await act(parser, "fine")
            assert caught.value.errno == errno.EMFILE
            with pytest.raises(StorageError):
                await act(parser, "fine")
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: parser.stats().processes == 2)
            assert await act(parser, "fine") == "fine"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_document_whose_new_process_cannot_be_started_goes_to_another(tmp_path):
    """It is the only one there is: nothing else would make that process ask for more. And it was not tried alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        async with open_patient(2) as parser:
            await until(lambda: parser.stats().processes == 2)
            await asyncio.gather(*(act(parser, "sleep 0.2") for _ in range(2)))
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            async with asyncio.timeout(30):
                assert await act(parser, "once", tmp_path / "been") == "once"
            assert (parser.stats().processes, parser.stats().crashed) == (1, 0)
            with pytest.raises(StorageError) as caught:  # it ends the last one as well, and nobody knows whose fault that is
                await act(parser, "abort")
            assert caught.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("end", "number"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", errno.ENOMEM),
        ("raise OSError(23, 'Too many open files in system')", errno.ENFILE),
        ("raise ImportError('x.so: cannot open shared object file: Too many open files in system')", errno.ENFILE),
        ("raise MemoryError", errno.ENOMEM),
    ],
)
async def test_processes_that_cannot_begin_for_want_of_something_are_our_own_trouble(tmp_path, monkeypatch, end, number):
    """As where a control group has no memory left for them, or the machine no descriptors to load a library with."""
    armed = tmp_path / "armed"
    armed.touch()
    (tmp_path / "doomed.py").write_text(
        f"import os, signal\nif os.path.exists({str(armed)!r}):\n    {end}\ndef read(body):\n    return 'fine'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("crawler.parse.pool.START_AGAIN_S", 0.01)
    async with open_parser(ParseConfig(), parsers=1, preload="doomed:read") as parser:
        for _ in range(2):
            with pytest.raises(StorageError) as caught:
                await parser.call("doomed:read", b"", result=str)
            assert caught.value.errno == number
        armed.unlink()
        await until(lambda: parser.stats().processes == 1)
        while True:
            try:
                assert await parser.call("doomed:read", b"", result=str) == "fine"
            except StorageError:
                await asyncio.sleep(0.01)
            else:
                break


async def test_processes_that_end_as_they_begin_and_did_not_before_are_our_own_trouble(tmp_path, monkeypatch):
    """The interpreter itself gets no memory, or the machine has no descriptors to load it with: it cannot say so."""
    armed = tmp_path / "armed"
    (tmp_path / "sitecustomize.py").write_text(f"import os\nif os.path.exists({str(armed)!r}):\n    os._exit(127)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("crawler.parse.pool.START_AGAIN_S", 0.01)
    async with open_patient() as parser:
        assert await act(parser, "fine") == "fine"
        armed.touch()
        parser.restart()
        for _ in range(2):
            with pytest.raises(StorageError, match="allow more memory"):
                await act(parser, "fine")
        armed.unlink()
        await until(lambda: parser.stats().processes == 1)
        while True:
            try:
                assert await act(parser, "fine") == "fine"
            except StorageError:
                await asyncio.sleep(0.01)
            else:
                break


async def test_a_process_has_nothing_but_its_socket(tmp_path, monkeypatch):
    """No descriptor, no secret, no file it could write; little imported; small."""
    monkeypatch.setenv("CRAWLER_API_TOKEN", "secret")
    with open(tmp_path / "open.txt", "w") as file:
        os.set_inheritable(file.fileno(), True)
        async with open_parser(
            SOON, parsers=1, preload="support.victims:act crawler.core.urls:parse crawler.policy.robots_rules:read"
        ) as parser:
            found = await parser.call("support.victims:descriptors", result=list)
            assert {name.partition(":")[0] for name in found} <= {"socket", "/dev/null", f"/proc/{parser.pids()[0]}/fd"}
            assert "CRAWLER_API_TOKEN" not in await parser.call("support.victims:environment", result=list)
            modules = await parser.call("support.victims:modules", result=list)
            assert not {"asyncio", "aiohttp", "rocksdict", "crawler.config"} & set(modules)
            assert await parser.call("support.victims:resident", result=int) < 30 * MIB
            assert isinstance(await act(parser, "write", tmp_path / "written"), ParseFault)
            assert not (tmp_path / "written").exists() or (tmp_path / "written").read_bytes() == b""


async def test_outlinks_come_back_as_they_are_made_in_the_loop():
    """The real reader, and what it costs: a process that has it is still small."""
    page = b"<base href=/a/><a href=b>b</a><a rel=nofollow href='//c.example/?q=\xe9'>c</a><meta name=robots content=noarchive>"
    arguments = (page, "https://a.example/", "text/html", "windows-1252", [(b"Link", b"</d>; rel=next")])
    reading = encode(ReadingOptions(Options("bot"), ScopeRules(scope="any", depth=-1), 7, True))
    arguments += (1, "https://a.example/", reading)
    answers = []
    for parsers in (0, 1):
        async with open_parser(SOON, parsers=parsers, preload=f"{FUNCTION} support.victims:act") as parser:
            answers.append(await parser.call(FUNCTION, *arguments, result=Packed))
            if parsers:
                assert await parser.call("support.victims:resident", result=int) < 30 * MIB
                modules = await parser.call("support.victims:modules", result=list)
                assert not {"asyncio", "aiohttp", "rocksdict", "crawler.config", "email.utils"} & set(modules)
    assert answers[0] == answers[1]
    assert [len(part) for part in answers[1].parts] == [2] and answers[1].refused == {"nofollow": 1}


def test_a_page_too_large_for_a_parser_is_read_as_far_as_it_can(tmp_path):
    """Of 80,000 links the first 20,000: the rule that leaves the others out is told."""
    many = webs.page(*(f"/a-page-of-many/{n}" for n in range(80_000)))
    with webs.Web({"127.0.0.1": {"/": many}}).running() as web:
        bounds = ("--memory-limit", "256MiB", "--depth", "1", "--max-pages", "1", "--archive", "discard")
        told = crawler("run", web.url("127.0.0.1"), "-o", str(tmp_path), *bounds, *LOCAL)
    store = RocksReader(tmp_path / "frontier")
    counts = store.stats()
    store.close()
    assert (counts.done, counts.refused) == (1, {"parse_crashed": 1}), told.stderr
    assert 15_000 < counts.known < 25_000


PARENT = """
import asyncio, sys
from crawler.config.sections import ParseConfig
from crawler.core.errors import StorageError
from crawler.parse.html import Options, Outlinks
from crawler.parse.pool import open_parser

async def main():
    async with open_parser(ParseConfig(), parsers=2, preload="support.victims:act") as parser:
        await asyncio.gather(*(parser.call("support.victims:process", b"", result=int) for _ in range(9)))
        print(*parser.pids(), flush=True)
        await parser.call("support.victims:act", b"spin", result=str)

asyncio.run(main())
"""


async def test_processes_die_with_their_parent():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    with parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.1)
    parent.kill()
    parent.wait()
    await until(lambda: not any(map(alive, pids)))


async def test_the_pool_under_uvloop():
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with asyncio.timeout(60), open_soon(2) as parser:
            assert await act(parser, "abort") == ParseFault("parse_crashed", "the process died")
            assert await act(parser, "spin") == ParseFault("parse_timeout")
            assert await asyncio.gather(*(act(parser, f"w{n}") for n in range(100))) == [f"w{n}" for n in range(100)]

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    await asyncio.to_thread(run)


def test_how_many_processes():
    assert pool_size(None, cores=1, memory_limit_bytes=1 << 30) == 1
    assert pool_size(None, cores=8, memory_limit_bytes=256 * MIB) == 1
    assert pool_size(None, cores=8, memory_limit_bytes=1 << 30) == 6
    assert pool_size(None, cores=4, memory_limit_bytes=1 << 30) == 3
    assert pool_size(0, cores=4, memory_limit_bytes=1 << 30) == 0
    assert pool_size(5, cores=1, memory_limit_bytes=1) == 5
