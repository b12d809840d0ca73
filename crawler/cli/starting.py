"""How ``run`` and ``serve`` begin: what is checked first, in how many processes they crawl, with which loop and memory.

Invariant: lists, cookies, addresses and the database are checked before a directory is begun, or an earlier crawl is set aside.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from errno import EWOULDBLOCK
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from crawler.core.errors import NO_PROC, ConfigError, Exit, RemoteError, StorageError

if TYPE_CHECKING:
    import asyncio

    from crawler.config.sections import Config
    from crawler.service import Report, Signals
    from crawler.service.opening_wait import Awaited

GC_OBJECTS: Final = 20_000
"""New containers between two looks for cycles: 2,000 took 3 % of a list's time and 5 % of a crawl's, this takes 0.3. What visits
leave behind holds no cycles: the memory in these would have no other bound."""

DESCRIPTORS_MIN: Final = 16
"""An event loop takes half of them on its way. The smallest crawl there is would do with one or two fewer."""

DISK_AGAIN_S: Final = 1.0
"""Until a crawl is opened again whose disk was full; each time twice as long, but not longer than DISK_AGAIN_S_MAX."""
DISK_AGAIN_S_MAX: Final = 15.0

Command = Literal["run", "serve"]
Crawling = Callable[..., Coroutine[Any, Any, "Report"]]
"""What crawls, once its settings are given: from open to report."""

T = TypeVar("T")


def seed_faults(config: Config) -> list[str]:
    """What is wrong with the lists and URLs of a configuration, and whether its directory may be read at all."""
    from crawler.cli.named_urls import check_urls
    from crawler.output import is_crawl
    from crawler.parse.seed_files import check

    try:
        is_crawl(Path(config.output or ""))
    except ConfigError as error:
        return [*error.faults, *check(config.input)]
    rules = config.url_rules()
    faults = check_urls(config.urls, rules)
    if faults and config.output is not None and not config.fresh:  # an earlier version wrote down that such URLs are none
        faults = check_urls(config.urls[_urls_read(Path(config.output)) :], rules)
    return [*check(config.input), *faults]


def _urls_read(root: Path) -> int:
    """How many URLs of the command line the crawl in ``root`` has read; 0 if there is no crawl."""
    from crawler.frontier import has_opened_a_store, open_reader
    from crawler.frontier.division import moving_at
    from crawler.output import is_crawl
    from crawler.parse.seeds import ARGV, lines_read
    from crawler.service.parts.nursery import apart

    if not is_crawl(root):
        return 0
    if moving_at(root / "frontier") is not None:
        return sys.maxsize  # nobody knows, until what was begun is ended

    def read() -> int:
        with contextlib.closing(open_reader(root / "frontier")) as reader:
            return lines_read(reader.positions().get(ARGV))

    if has_opened_a_store():  # a daemon reloads
        return read()
    return int(apart(read, f"{root}: the crawl in it could not be read"))


def once_open(
    config: Config,
    command: Command,
    signals: Signals | None,
    crawl: Callable[[], int],
    stopped: Exit,
    is_open: Callable[[], bool] = lambda: False,
) -> int:
    """What ``crawl`` gives, or ``stopped``. A node that has been in its crawl waits for a database that is away, or goes away
    while the crawl is being opened, until a signal ends that: what was begun is closed then, and opened anew. ``run`` gives up
    ``disk_wait`` after it first was away. Likewise a daemon that goes on with a crawl waits for a disk that is full: ``is_open``
    says that it has opened it."""
    if signals is None:
        return crawl()
    what: Awaited = "database"
    why, away_since, disk_s = _why_away(config), time.monotonic(), DISK_AGAIN_S
    while True:
        if why is not None:
            if _waited_in_vain(config, command, signals, what, why, disk_s):
                return stopped
            disk_s = min(2 * disk_s, DISK_AGAIN_S_MAX) if what == "disk" else disk_s
        try:
            return crawl()
        except StorageError as error:
            away_since = time.monotonic() if why is None else away_since
            is_given_up = command == "run" and time.monotonic() - away_since > config.disk_wait
            awaited = _awaited(config, command, error, is_open=is_open())
            if why is not None and what == "disk" and error.errno == EWOULDBLOCK:
                awaited = what  # perhaps by the command that is to make room: nothing held the directory meanwhile
            if is_given_up or awaited is None:
                raise
            what, why = awaited, str(error)
        gc.unfreeze()
        gc.collect()  # what is left of it has been told to stay (settle_memory), and would, of each time it is opened


def _awaited(config: Config, command: Command, error: StorageError, *, is_open: bool) -> Awaited | None:
    """What would cure it, and comes back by itself; None if nothing does."""
    from crawler.config.crawl_toml import FILE_NAME
    from crawler.output import is_crawl
    from crawler.resources.disk import FULL

    if isinstance(error, RemoteError):
        return "database" if _may_wait(config) else None
    root = Path(config.output or "")
    is_full = command == "serve" and error.errno in FULL and not is_open
    has_begun = is_crawl(root) or (config.store == "memory" and (root / FILE_NAME).exists())  # which has no frontier there
    return "disk" if is_full and not config.fresh and has_begun else None


def _may_wait(config: Config) -> bool:
    """The URL of one that has never been in the crawl may be wrong."""
    from crawler.frontier.cluster.node import has_joined

    return config.cluster is not None and not config.fresh and has_joined(Path(config.output or "") / "frontier")


def _why_away(config: Config) -> str | None:
    """Of a database that is to be waited for."""
    if not _may_wait(config):
        return None
    from crawler.crawl.membership import why_away

    return why_away(config)


def _waited_in_vain(config: Config, command: Command, signals: Signals, what: Awaited, why: str, disk_s: float) -> bool:
    """Wait for a database that is away, or was just now, which ``why`` tells, or for ``disk_s`` where the disk was full: whether
    a signal has ended that."""
    from crawler.cli.log import log_of_daemon, log_of_run
    from crawler.crawl.membership import why_away
    from crawler.service.opening_wait import wait_for

    log = log_of_daemon(config) if command == "serve" else log_of_run(config, partial(print, file=sys.stderr))
    until = time.monotonic() + disk_s

    def away() -> str | None:
        if what == "disk":  # a quota says nothing of itself: the opening tells whether there is room
            return why if time.monotonic() < until else None
        return why_away(config)

    with log:
        return _before_parts(lambda: wait_for(what, config, why, away, signals, endless=command == "serve")) is not None


@contextlib.contextmanager
def opened_for(config: Config, command: Command, parts: int) -> Iterator[Crawling]:
    """What runs or serves the crawl, in this process or in several, which are begun from here."""
    if config.cookies is not None:
        from crawler.fetch.cookies import check_file

        check_file(Path(config.cookies))  # one that cannot be read begins no directory
    if not Path("/proc/self/statm").exists():
        from crawler.cli.output import say
        from crawler.crawl.planning import parsers_of

        if parsers_of(config):
            raise ConfigError(
                f"{NO_PROC}: memory is not measured without it, and no parser process begins; with parsers = 0 none has to"
            )
        say(f"{NO_PROC}: memory is not measured")
    _check_addresses(config, command)
    _check_database(config)
    if parts == 1:
        yield partial(_in_one_process(command), config)
        return
    crawl = _in_several_processes(command)
    from crawler.service.parts.opening import open_parts

    settle_memory()
    with open_parts(config, parts, loop_factory(), endless=command == "serve") as opened:
        yield partial(crawl, config, opened)


def _in_one_process(command: Command) -> Crawling:
    if command == "run":
        from crawler.service.run import run_crawl

        return run_crawl
    from crawler.service.serve import serve

    return serve


def _in_several_processes(command: Command) -> Crawling:
    if command == "run":
        from crawler.service.parts.run import run_parts

        return run_parts
    from crawler.service.parts.serve import serve_parts

    return serve_parts


def _check_addresses(config: Config, command: Command) -> None:
    """One that is taken begins no directory, and sets none aside. Where there is a crawl already, its lock is asked first."""
    from crawler.output import is_crawl, locked

    wanted = [address for address in (config.metrics_listen, config.listen if command == "serve" else None) if address]
    root = Path(config.output or "")
    if wanted and (config.fresh or not is_crawl(root)):
        from crawler.service.listener import check_addresses

        with locked(root) if is_crawl(root) else contextlib.nullcontext():
            _before_parts(lambda: check_addresses(wanted))


def _check_database(config: Config) -> None:
    """As ``_check_addresses``. StorageError: the database of the cluster cannot be reached."""
    from crawler.output import is_crawl

    if config.cluster is not None and (config.fresh or not is_crawl(Path(config.output or ""))):
        from crawler.crawl.membership import why_away

        if (why := why_away(config)) is not None:
            raise StorageError(why)


def processes_of(config: Config, command: Command) -> tuple[int, str]:
    """How many a crawl is to have: as the settings say, as its directory is divided, or as many as help; and why, if nobody has
    said so."""
    if config.processes:
        return config.processes, ""
    from crawler.frontier import has_opened_a_store
    from crawler.frontier.division import is_empty, parts_at

    path = Path(config.output or "") / "frontier"
    if config.output is not None and not config.fresh and not is_empty(path):
        return parts_at(path), ""
    from crawler.service.parts.auto import processes_for

    processes, why = processes_for(config, endless=command == "serve")
    if processes > 1 and has_opened_a_store():
        processes, why = 1, "this one has opened a crawl itself"
    return processes, f"{processes} process{'es' * (processes > 1)}: {why}"


def import_aiohttp() -> None:
    """aiohttp without what it prepares, when it is imported, for defaults that a crawl replaces: the system's certificates in two
    TLS contexts (55 ms), and c-ares (20 ms). The crawl's own connector makes its own of either, when a link first needs it.

    For a process that is the crawler's own: elsewhere those defaults are others' to use."""
    if "aiohttp" in sys.modules:
        return
    import ssl

    ssl.SSLContext.set_default_verify_paths = lambda context: None  # type: ignore[assignment]
    sys.modules["aiodns"] = None  # type: ignore[assignment] # as if it were not installed
    try:
        import aiohttp  # noqa: F401
    finally:
        del ssl.SSLContext.set_default_verify_paths  # it was inherited
        del sys.modules["aiodns"]


def in_a_loop(crawl: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it to its end. StorageError: there are no threads for its loop, or no descriptors."""
    from crawler.core.threads import LOOP_THREADS, try_threads
    from crawler.service.loop import run_to_its_end

    settle_memory()
    try_threads(LOOP_THREADS)  # a parent that crawls nothing tries no others, and may listen on a name
    return run_to_its_end(loop_factory(), crawl)


def _before_parts(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """In a loop that leaves no threads behind, as uvloop does: no part is to be forked beside them."""
    import asyncio

    from crawler.service.loop import run_to_its_end

    _try_descriptors()
    return run_to_its_end(asyncio.new_event_loop, main)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed: a fifth of the memory for every TLS connection, and less work on each. Raises OSError
    where it would find too few descriptors: it aborts the process then, or cannot be closed."""
    try:
        import uvloop as loops
    except ImportError:
        import asyncio as loops  # type: ignore[no-redef]

    def make() -> asyncio.AbstractEventLoop:
        _try_descriptors()
        return loops.new_event_loop()

    return make


def _try_descriptors() -> None:
    """Raises OSError where an event loop would find too few."""
    with contextlib.ExitStack() as stack:
        for _ in range(DESCRIPTORS_MIN):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def settle_memory() -> None:
    """Before threads and other processes begin."""
    from crawler.resources.memory_pressure import tidy_heaps

    tidy_heaps()
    gc.freeze()  # what is imported by now stays
    gc.set_threshold(GC_OBJECTS, *gc.get_threshold()[1:])
