"""The command ``cluster``: how the nodes of a crawl of many machines are, and one of them declared lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from crawler.cli.arguments import CommandParser
from crawler.cli.options import add_settings, flags
from crawler.cli.output import say
from crawler.core.errors import ConfigError, Exit
from crawler.core.text import amount

if TYPE_CHECKING:
    from crawler.frontier.cluster.overview import NodeView, Overview

SETTINGS: Final = ("cluster", "cluster_lease")


def cluster(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "cluster",
        "cluster status [URL] | lost NODE [URL] [--cluster URL] [--json]",
        "Shows the nodes of a crawl of many machines, what is on its way between them, and what only one disk holds. Declares a "
        "node lost whose disk is gone for good: the pages that only it held are visited again, by the others.\n\nexamples:\n"
        "  crawler cluster status 'postgresql://crawler@db.example/crawls?schema=my_crawl'\n"
        "  CRAWLER_CLUSTER=postgresql://... crawler cluster status --json\n"
        "  crawler cluster lost 3f2a --cluster ...                  by the name of a node, or how it begins, or its machine",
    )
    parser.add_argument("action", choices=("status", "lost"), metavar="status|lost")
    parser.add_argument("names", nargs="*", metavar="NODE|URL", help="which one is lost, see status; the crawl's database")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_settings(parser, only=SETTINGS)
    namespace = parser.parse(arguments)
    names, urls = [name for name in namespace.names if "://" not in name], [name for name in namespace.names if "://" in name]
    if len(urls) + ("cluster" in namespace) > 1:
        raise ConfigError("the URL of the crawl's database was given twice")
    if urls:
        namespace.cluster = urls[0]
    from crawler.config.load import load

    needs = {"cluster": "--cluster is missing: the URL of the crawl's database, as its nodes were given it"}
    config = load(flags(namespace), file=namespace.config, needs=needs).config
    from crawler.crawl.membership import address_of

    address = address_of(config)  # which says so where the database's client is not installed
    from crawler.frontier.cluster.overview import declare_lost, look

    if namespace.action == "status":
        if names:
            raise ConfigError("status is of all nodes: leave the name out")
        _show(look(address, config.cluster_lease), as_json=namespace.json)
        return Exit.OK
    if len(names) != 1 or not names[0]:
        raise ConfigError("which node is lost? Name one: crawler cluster status lists them")
    _tell_lost(declare_lost(address, config.cluster_lease, names[0]))
    return Exit.OK


def _show(seen: Overview, *, as_json: bool) -> None:
    if as_json:
        from msgspec.json import encode

        print(encode(seen).decode())
        return
    print(f"{seen.done:,} of {seen.known:,} URLs done, {seen.waiting + seen.retrying:,} wait")
    if seen.slots_free:
        print(f"{seen.slots_free} of 256 slots have no owner just now")
    if seen.messages_for_nobody:
        print(f"{seen.messages_for_nobody:,} messages wait for a slot that has no owner")
    print(f"{'node':<14}{'machine':<20}{'state':<7}{'parts':>5}{'slots':>7}{'seen':>10}{'messages':>10}{'only on its disk':>26}")
    for node in seen.nodes:
        seen_ago = f"{node.seen_ago_s:,.0f} s"
        alone = f"{node.only_here_files:,} files, {amount(node.only_here_bytes)}" if node.only_here_files else "-"
        print(
            f"{node.node[:12]:<14}{node.name[:18]:<20}{node.state:<7}{node.parts:>5}{node.slots:>7}{seen_ago:>10}"
            f"{node.messages:>10,}{alone:>26}{'  reads its lists' if node.reads_lists else ''}"
        )


def _tell_lost(node: NodeView) -> None:
    say(f"{node.node} ({node.name}) is lost: {node.only_here_files:,} files were only there")
    say("the pages in them become due again as soon as a node crawls, or at once where one does")
    if node.lines and node.only_here_files:
        say(
            f"it wrote the rows of {node.lines:,} listed lines that are no new URL (duplicate, invalid_url): those that were "
            "only there are not written again"
        )
    if node.reads_lists:
        say("its URL lists were not read to their end: give them to another node (-i), which goes on behind what was read")
