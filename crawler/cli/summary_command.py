"""The command ``summary``: shows what a crawl has brought so far, as text, JSON or a page; also while it runs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from msgspec.structs import asdict

from crawler.cli.arguments import CommandParser, file_name
from crawler.cli.output import ended_in_order, not_written, say, write
from crawler.cli.read_commands import add_directory, open_reader
from crawler.core.durable import beside
from crawler.core.errors import ConfigError, Exit
from crawler.core.text import amount, counted, json_text, printable

if TYPE_CHECKING:
    from crawler.output.summary import Summary


def summary(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        "summary",
        "summary DIR [--html FILE | --json | --incomplete]",
        "Shows what a crawl has brought so far: outcomes by status, types, hosts and durations, and which pages lack something "
        "that they need (--requisites).\n\nexamples:\n"
        "  crawler summary out/\n"
        "  crawler summary out/ --html out.html     the same with sizes and times, as one page with plots that needs no network\n"
        "  crawler summary out/ --incomplete        every page that lacks something, as JSON lines: its URL and what it lacks",
    )
    add_directory(parser)
    parser.add_argument("--html", type=file_name, metavar="FILE", help="write it as one self-contained page")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument("--incomplete", action="store_true", help="the pages that lack something, read again one by one")
    namespace = parser.parse(arguments)
    if sum((namespace.html is not None, namespace.json, namespace.incomplete)) > 1:
        raise ConfigError(
            "--html, --json and --incomplete are three ways to show it: give one of them, and the command once for each"
        )
    with open_reader(namespace.directory) as reader:
        if namespace.incomplete:
            from crawler.crawl.incomplete import incomplete_pages

            unread = itertools.count()
            pages = incomplete_pages(reader, lambda: next(unread))
            first = list(itertools.islice(pages, 1))
            write(json_text(orjson.dumps(page, default=asdict) + b"\n") for page in itertools.chain(first, pages))
            if unkept := next(unread):
                say(f"{counted(unkept, 'page')} could not be read again: no body is kept, or it takes too much memory")
            elif not first:
                say("no page lacks anything")
            return Exit.OK
        summed = reader.summary()
    if namespace.html:
        from crawler.output.summary_page import page

        text = page(summed, title=f"Crawl of {Path(namespace.directory).resolve().name}")
        try:
            with ended_in_order():
                _replace(Path(namespace.html), text.encode())
        except OSError as error:
            raise not_written(namespace.html, error) from error
        say(f"{namespace.html} is written")
    elif namespace.json:
        write((json_text(orjson.dumps(summed.as_json(), option=orjson.OPT_NON_STR_KEYS)), b"\n"))
    else:
        print("\n".join(_text(summed)))
    return Exit.OK


def _replace(to: Path, data: bytes) -> None:
    """Write it to a file, whole or not at all: what was there before is lost only once it is. Raises as
    ``beside``."""
    if to.exists() and not to.is_file():  # a device or a pipe
        to.write_bytes(data)
        return
    with beside(Path(os.path.realpath(to))) as file:  # a link stays one
        file.write(data)


def _text(summed: Summary) -> Iterator[str]:
    """For a person."""
    besides = ", ".join(f"{summed.kinds[kind]:,} {kind}" for kind in ("embed", "sitemap", "robots") if summed.kinds[kind])
    yield counted(sum(summed.outcomes.values()), "page") + f" (besides: {besides})" * bool(besides) + f", {amount(summed.bytes)}"
    yield from _columns("outcomes", summed.outcomes.most_common())
    yield from _columns("status codes", sorted(summed.statuses.items()))
    if any(change != "new" for change in summed.changes):
        yield from _columns("against the last visits", summed.changes.most_common())
    yield from _columns(summed.types.titled("types"), summed.types.most())
    yield from _columns(summed.hosts.titled("hosts"), summed.hosts.most())
    yield from _columns(summed.failing.titled("hosts with most failures"), summed.failing.most())
    for name, histogram in (("time to first byte", summed.first_byte), ("whole fetch", summed.total)):
        labels = [f"up to {bound:g} s" for bound in histogram.bounds] + [f"over {histogram.bounds[-1]:g} s"]
        yield from _columns(name, [pair for pair in zip(labels, histogram.counts, strict=True) if pair[1]])
    if summed.missing:
        yield f"{counted(summed.missing, 'requisite')} could not be fetched"
        title = summed.incomplete.titled("pages that lack them, as the first to name them")
        yield from _columns(title, summed.incomplete.most())


def _columns(title: str, counts: Sequence[tuple[str, int]]) -> Iterator[str]:
    if counts:
        yield title
        width, digits = max(len(name) for name, _ in counts), max(len(f"{count:,}") for _, count in counts)
        yield from (f"  {printable(name):<{width}}  {f'{count:,}':>{digits}}" for name, count in counts)
