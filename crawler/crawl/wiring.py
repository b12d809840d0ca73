"""Puts a crawl together: the only code that knows the concrete parts.

Parts are opened in the order of their dependence and closed in the reverse one: first traffic stops, then pages are flushed,
and outcomes are recorded last.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from msgspec import Struct
from msgspec.json import decode, encode

from crawler.config import Config, HostRules
from crawler.core.clock import Clock
from crawler.core.domains import domain_of
from crawler.core.errors import ConfigError
from crawler.core.snapshot import Limiter
from crawler.core.threads import CRAWL_THREADS, try_threads
from crawler.core.urls import UrlRules
from crawler.core.version import __version__
from crawler.crawl import embeds
from crawler.crawl.crawl import Crawl
from crawler.crawl.expand import Expander
from crawler.crawl.failing_hosts import FailingHosts
from crawler.crawl.files import CrawlPart, Files, open_files
from crawler.crawl.metrics import Metrics
from crawler.crawl.outlinks import FUNCTION
from crawler.crawl.planning import plan_of
from crawler.crawl.recrawl import Recrawler
from crawler.crawl.visitor import Resources, Rules, Visitor
from crawler.crawl.visits import Visits
from crawler.fetch import Fetcher, open_fetcher
from crawler.frontier import Store
from crawler.frontier.handed import Handed
from crawler.frontier.pump import Pump
from crawler.frontier.workbench import Workbench
from crawler.output import Journal, Retention, Uploads
from crawler.output.archive import FOLDERS, KINDS
from crawler.output.uploads import open_uploads, stored_place
from crawler.parse import seeds
from crawler.parse.html import PARSER
from crawler.policy.exclusion import Exclusion
from crawler.policy.judge import Judge
from crawler.policy.politeness import RUN_BACKOFF_MAX_S, SERVE_BACKOFF_MAX_S, Politeness
from crawler.policy.scope import RULES, Scope
from crawler.resources import cgroup
from crawler.resources.disk import Disk
from crawler.resources.memory_budget import Budget
from crawler.resources.memory_governor import MemoryGovernor
from crawler.resources.memory_plan import BENCH_LINK_BYTES, DNS_NAME_BYTES, Plan
from crawler.resources.network import Network

if TYPE_CHECKING:
    from crawler.crawl.membership import Membership
    from crawler.fetch.cookies import Cookies
    from crawler.frontier.exchange.intake import Intake
    from crawler.parse.pool import ParserPool
    from crawler.policy.robots_gate import RobotsGate


@contextlib.asynccontextmanager
async def open_crawl(config: Config, *, endless: bool = False, part: CrawlPart | None = None) -> AsyncIterator[Crawl]:
    """A crawl over its directory, ready to ``run``. ``endless``: it does not end when nothing waits. ``part``: only this part of
    it, in a directory that is open already; its settings are what the part may use of each.

    ConfigError: the operator must edit something; StorageError: the directory is in use (EWOULDBLOCK), damaged, or full."""
    if config.output is None:
        raise ConfigError("no directory: name one with --output")
    plan = plan_of(config, endless=endless, is_part=part is not None)  # a limit that does not do begins no directory
    try_threads(CRAWL_THREADS)
    await asyncio.get_running_loop().getaddrinfo("127.0.0.1", None)  # begins libuv's: a visit must not die for want of one
    hosts = HostRules(config)
    with contextlib.ExitStack() as stack:
        files = open_files(config, hosts, plan, part, stack)
        clock = Clock(max(files.store.clock(), files.opened_at), files.membership.now if files.membership is not None else None)
        rules = _rules(config, hosts, files.store, clock, plan, endless=endless)
        basis = _Basis(config, part, endless, files, clock, rules, Budget(plan), FailingHosts(), Visits())
        pump = _pump(basis)
        stack.callback(pump.close)
        async with (
            _open_cookies(config, files.root) as cookies,
            _open_fetcher(config, files.tmp, plan, cookies) as fetcher,
            _open_parser(config, plan) as parser,
        ):
            pump.frontier.limit(Limiter.DESCRIPTORS, fetcher.concurrency_max)
            _measure(basis, pump, fetcher, parser)
            yield _crawl(basis, pump, fetcher, parser)


class _Basis(NamedTuple):
    """What the other parts of a crawl are made from."""

    config: Config
    part: CrawlPart | None
    endless: bool
    files: Files
    clock: Clock
    rules: Rules
    budget: Budget
    failing_hosts: FailingHosts
    visits: Visits


def _rules(config: Config, hosts: HostRules, store: Store, clock: Clock, plan: Plan, *, endless: bool) -> Rules:
    robots = _open_robots(config, hosts, clock, plan.accounts["robots"], may_change=endless)
    politeness = Politeness(
        hosts,
        robots.delay if robots is not None else None,
        random.random,
        backoff_max_s=config.backoff_max or (SERVE_BACKOFF_MAX_S if endless else RUN_BACKOFF_MAX_S),
        host_failures=config.host_failures,
    )
    return Rules(hosts, robots, politeness, Exclusion(config, _begun_with(store, config), hosts.blocks))


def _pump(basis: _Basis) -> Pump:
    """The frontier over what is on disk."""
    config, files, clock, rules = basis.config, basis.files, basis.clock, basis.rules
    membership = files.membership
    group_of = domain_of if config.politeness_by == "domain" else None

    def taken_over(host: str) -> tuple[float, float]:
        return pump.taken_at(host), rules.hosts.delay(host)

    pump = Pump(
        files.store,
        Workbench(rules.hosts.per_host, group_of, visits_max=config.workers, taken_over=taken_over),
        Handed(rules.politeness, rules.robots, rules.exclusion, basis.budget),
        files.journal,
        clock=clock.now,
        wall=clock.wall,
        links_max=basis.budget.plan.bench_links_max,
        in_flight=files.in_flight,
        visits_max=_visits_max(config, basis.part),
        on_unfetched=basis.failing_hosts.add,
        endless=basis.endless,
        intake=_intake(files, clock),
        member=membership.member(config, files.store, clock) if membership is not None else None,
    )
    return pump


def _intake(files: Files, clock: Clock) -> Intake | None:
    if files.exchange is None:
        return None
    from crawler.frontier.exchange.intake import Intake  # not needed for a whole crawl

    return Intake(files.exchange, clock.now)


def _crawl(basis: _Basis, pump: Pump, fetcher: Fetcher, parser: ParserPool | None) -> Crawl:
    """All that is open, put together."""
    config, part, files, clock = basis.config, basis.part, basis.files, basis.clock
    metrics, url_rules = _metrics(files.store), config.url_rules()
    recrawler = Recrawler(config, files.store, pump, clock, counts_all=part is None or not part.is_divided_anew)
    marking = asyncio.Lock()
    uploads = _uploads(config, files.root, pump, marking, files.journal)
    resources = _resources(basis, pump, fetcher, parser, uploads)
    visitor = Visitor(
        files.root,
        pump,
        clock=clock,
        rules=basis.rules,
        resources=resources,
        visits=basis.visits,
        fetcher=fetcher,
        judge=Judge(
            retries=config.retries,
            max_redirects=config.max_redirects,
            rules=url_rules,
            move_anchor=config.redirects == "any",
        ),
        expander=_expander(basis, pump, fetcher, parser, metrics, recrawler),
        metrics=metrics,
        workers=config.workers,
    )
    return Crawl(
        config,
        files,
        clock=clock,
        pump=pump,
        rules=basis.rules,
        resources=resources,
        fetcher=fetcher,
        parser=parser,
        visitor=visitor,
        retention=_retention(basis, pump, marking),
        uploads=uploads,
        seeds=_seeds(config, files.store, url_rules, files.membership) if part is None or part.share.own == 0 else iter(()),
        recrawler=recrawler,
        metrics=metrics,
        failing_hosts=basis.failing_hosts,
    )


def _expander(
    basis: _Basis, pump: Pump, fetcher: Fetcher, parser: ParserPool | None, metrics: Metrics, recrawler: Recrawler
) -> Expander:
    config = basis.config
    return Expander(
        config,
        Scope(config, blocked=basis.rules.hosts.blocked),
        parser,
        fetcher.finisher,
        pump.frontier.admit,
        secret=basis.files.store.secret(),
        on_parsed=metrics.parsed,
        hasten=recrawler.hasten if config.recrawl_every else None,
        by_domain=_is_by_domain(config, basis.part),
        obeys=basis.rules.hosts.obeys_robots,
    )


def _is_by_domain(config: Config, part: CrawlPart | None) -> bool:
    """Whether all hosts of a domain have one owner."""
    if config.cluster is not None:
        return config.politeness_by == "domain"
    return part is not None and part.share.group_of is not None


def _metrics(store: Store) -> Metrics:
    metrics, own = Metrics(version=__version__, rules=RULES), store.own_counts()
    metrics.opened(own.known, own.settled)
    return metrics


def _resources(basis: _Basis, pump: Pump, fetcher: Fetcher, parser: ParserPool | None, uploads: Uploads | None) -> Resources:
    files, robots, now = basis.files, basis.rules.robots, basis.clock.now
    patience_s = math.inf if basis.endless else basis.config.disk_wait
    memory = MemoryGovernor(
        basis.budget,
        pump.frontier,
        children=parser.pids if parser is not None else tuple,
        empty=(fetcher.forget, files.store.shed, *((robots.forget,) if robots is not None else ())),
        give_up_visits=basis.visits.break_off_oldest,
        restart_parsers=parser.restart if parser is not None else lambda: None,
        clock=now,
        break_off=uploads.break_off if uploads is not None else lambda: None,
    )
    disk = Disk(
        files.root,
        pump.frontier,
        min_free_bytes=basis.config.min_free_disk,
        patience_s=patience_s,
        clock=now,
        folders=("frontier", *FOLDERS, "results"),
    )
    return Resources(memory, disk, Network(pump.frontier, fetcher.reaches, fetcher, clock=now, patience_s=patience_s))


def _open_fetcher(
    config: Config, tmp: Path, plan: Plan, cookies: Cookies | None
) -> contextlib.AbstractAsyncContextManager[Fetcher]:
    return open_fetcher(
        config,
        tmp=tmp,
        decode_body=KINDS[config.archive].decodes,
        hosts=config.host,
        per_host=config.per_host,
        names_max=plan.dns_names_max,
        idle_bytes_max=plan.accounts["idle"],
        body_memory_bytes=plan.body_memory_bytes,
        cookies=cookies,
    )


@contextlib.asynccontextmanager
async def _open_cookies(config: Config, root: Path) -> AsyncIterator[Cookies | None]:
    """None where the crawl has none."""
    if config.cookies is None:
        yield None
        return
    from crawler.fetch.cookies import open_cookies  # what it stands on takes 20 ms to import

    async with open_cookies(Path(config.cookies), root) as cookies:
        yield cookies


def _uploads(config: Config, root: Path, pump: Pump, marking: asyncio.Lock, journal: Journal) -> Uploads | None:
    """None where files are stored nowhere else."""
    if config.store_url is None:
        return None
    return open_uploads(
        root,
        config.store_url,
        marks=pump.marks,
        mark=pump.frontier.retire,
        marking=marking,
        rolled=lambda: journal.rolled_count,
        jitter=random.random,
    )


def _retention(basis: _Basis, pump: Pump, marking: asyncio.Lock) -> Retention:
    config, root = basis.config, basis.files.root
    return Retention(
        root,
        age_s=config.retain_age,
        bytes_max=config.retain_bytes,
        marks=pump.marks,
        retire=pump.frontier.retire,
        wall=time.time,
        marking=marking,
        stored_at=stored_place(config.store_url, root) if config.store_url is not None else None,
        is_part=basis.part is not None,
    )


def _visits_max(config: Config, part: CrawlPart | None) -> int | None:
    """Pages that may be visited; None: no limit. A part begins with none, and is allowed them as it needs them."""
    return None if not config.max_pages else config.max_pages if part is None else 0


def _seeds(config: Config, store: Store, rules: UrlRules, membership: Membership | None) -> Iterator[seeds.Chunk]:
    lost = membership.lost_positions if membership is not None else None
    return seeds.read(config.input, config.urls, store.positions(), rules, _own_stdin(config), lost)


def _measure(basis: _Basis, pump: Pump, fetcher: Fetcher, parser: ParserPool | None) -> None:
    """Tell the budget how to read what the fixed accounts use."""
    robots, measure = basis.rules.robots, basis.budget.measure
    measure("store", basis.files.store.memory_used)
    measure("bench", lambda: pump.frontier.bench.weight * BENCH_LINK_BYTES)
    measure("robots", robots.memory_used if robots is not None else int)
    measure("idle", lambda: fetcher.stats().idle_bytes)
    measure("dns", lambda: fetcher.names_known * DNS_NAME_BYTES)
    measure("write", lambda: basis.files.journal.memory_used)
    measure("parsers", lambda: sum(map(cgroup.pss, parser.pids())) if parser is not None else 0)


@contextlib.asynccontextmanager
async def _open_parser(config: Config, plan: Plan) -> AsyncIterator[ParserPool | None]:
    """None where neither a page's outlinks nor a sitemap's are wanted, nor what pages need."""
    preload = [embeds.FUNCTION, embeds.PRELOAD, PARSER] if config.requisites else [FUNCTION, PARSER] if config.depth else []
    if config.sitemaps:
        from crawler.crawl import sitemap_entries

        preload.append(sitemap_entries.FUNCTION)
    if not preload:
        yield None
        return
    from crawler.parse.pool import open_parser  # not needed for a list

    functions = " ".join(preload)
    async with open_parser(config, parsers=plan.parsers, preload=functions, memory_bytes=plan.parser_memory_bytes) as parser:
        yield parser


def _begun_with(store: Store, config: Config) -> list[str]:
    """The expressions that the crawl was begun with (see ``Exclusion``)."""
    if (identity := store.identity()) is not None:
        return decode(identity, type=_Begun).exclude
    store.set_identity(encode(_Begun(list(config.exclude))))
    return list(config.exclude)


class _Begun(Struct):
    exclude: list[str]


def _own_stdin(config: Config) -> BinaryIO | None:
    """Standard input behind a buffer of our own: the interpreter's cannot be closed while a thread waits in it."""
    return os.fdopen(os.dup(0), "rb") if "-" in config.input else None


def _open_robots(config: Config, hosts: HostRules, clock: Clock, bytes_max: int, *, may_change: bool) -> RobotsGate | None:
    """None where no robots.txt matters, and no [[host]] table may come to say otherwise while it runs."""
    if not (config.robots or config.sitemaps or may_change or any(table.robots for table in config.host)):
        return None
    from crawler.policy.robots_cache import RulesCache
    from crawler.policy.robots_gate import RobotsGate, divided

    cache_bytes, failures_max = divided(bytes_max)
    return RobotsGate(
        RulesCache(cache_bytes),
        failures_max=failures_max,
        name=config.name,
        crawl_delay_cap_s=config.crawl_delay_cap,
        obeys=hosts.obeys_robots,
        wall=clock.wall,
        reads_all=config.sitemaps,
    )
