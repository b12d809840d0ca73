"""Progress of ``crawler run``: one live line on a terminal, plain lines elsewhere, a table at the end.

``Progress`` alone writes, and only to the stream it was given; the text is pure (see also crawler.crawl.status).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, TextIO

from crawler.cli.output import takes_more
from crawler.core.model import NO_FAILURE, RETRIED
from crawler.core.snapshot import Snapshot
from crawler.core.text import amount, printable
from crawler.crawl.status import Rates, duration, status_line
from crawler.parse.seed_lines import WHAT_TO_DO

if TYPE_CHECKING:
    from rich.live import Live

    from crawler.config.sections import Config

LIVE_EVERY_S: Final = 0.25
PLAIN_EVERY_S: Final = 10.0
_MARGIN: Final = 3
"""Columns kept free behind the live line: the ^C that a terminal echoes there must not break it, or it is not erased."""
CONTINUES: Final = "the same command continues"
_BESIDES: Final = {"robots": "robots.txt", "sitemap": "of sitemaps"}


_REMEDIES: Final = {
    "proxy": "the proxy took no connection, asked for a password, or passed the request on to nobody: see --proxy, --proxy-file",
    "resolver_unreachable": "no name server can be reached: is this machine online? Another one: --dns",
    "certificate": "the server's certificate is not trusted: name an authority of your own by --ca-file",
}
"""By the reason of a failure that a setting may be to blame for."""


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def how_to_go_on(config: Config) -> str:
    """What a crawl that is ended before it is done says of the next start."""
    if config.store == "memory":
        return "with --store memory the same command begins anew"
    return "the same command with --no-fresh continues" if config.fresh else CONTINUES


def closing_table(
    end: Snapshot,
    seconds: float,
    *,
    directory: str,
    stopped_by: str | None,
    begun: Snapshot | None = None,
    opened: bool = False,
    is_kept: bool = True,
    embeds: bool = False,
    since: str | None = None,
    error: str | None = None,
    again: str = CONTINUES,
) -> str:
    """Counts by outcome, the ten hosts with most failures, the command that lists them. ``seconds``: how long this run took;
    ``begun``: what it found in the directory; ``opened``: it may connect to some private networks (--allow-net); ``is_kept``:
    commands can read the crawl (not so with --store memory); ``embeds``: its pages are fetched with what they need; ``since``:
    when this run began, as ``--since`` takes it; ``error``: why it could not go on; ``again``: how it goes on."""
    lines = [f"{end.done:,} of {end.known:,} URLs settled, {amount(end.bytes)}, {_took(seconds)} this time"]
    if stopped_by:
        lines.append(f"stopped before the end ({stopped_by}): {again}")
    elif error is not None:
        lines.append(f"ended early by an error: {again}")
    elif not end.known and not end.lines:
        lines.append("no URL was listed: a list has one on each line that is not blank and no # comment")
    elif begun is not None and _had_nothing_left(begun, end):
        where = shlex.quote(directory)
        failed_before = any(end.outcomes.get(outcome) for outcome in RETRIED)
        retry = f" to try again what failed: crawler retry {where};" if failed_before else ""
        lines.append(f"nothing was left to do:{retry} to visit the pages again: crawler recrawl {where}; to begin anew: --fresh")
    if end.unstored:
        what = f"{end.unstored:,} full files ({amount(end.unstored_bytes)}) are not stored"
        lines.append(f"{what}: {end.store_trouble or 'there was no time'}; {again} with them")
    lines += _columns(_by_status(end))
    which = f"--change new,changed,gone{'' if since is None else f' --since {since}'}"
    lines += _changes(begun.changes if begun is not None else {}, end.changes, _to_list("them", directory, which, is_kept))
    lines += _blocked(end.outcomes.get("blocked", 0), begun.outcomes.get("blocked", 0) if begun else 0, directory, opened)
    lines += [f"{reason}: {what}" for reason, what in _REMEDIES.items() if end.reasons.get(reason)]
    if end.lines:
        lines += ["lines of the lists that are no new URL", *_columns(end.lines)]
        lines += [f"{reason}: {what}" for reason, what in WHAT_TO_DO.items() if end.reasons.get(reason)]
    if besides := [f"{count:,} {_BESIDES.get(kind, kind)}" for kind, count in sorted(end.not_pages.items()) if count]:
        lines.append(f"visited besides, no pages: {', '.join(besides)}")
    if end.refused:
        lines += ["links left out, by rule", *_columns(end.refused)]
    if end.failing_hosts:
        lines += [
            f"hosts with most failures{' this time' if begun is not None and begun.done else ''}",
            *_columns(dict(end.failing_hosts[:10])),
        ]
    failed = [outcome for outcome, count in end.outcomes.items() if count and outcome not in NO_FAILURE]
    failed += ["invalid_url"] * bool(end.lines.get("invalid_url"))
    if failed:
        # what was settled twice has two rows, of which the first may have failed; embeds have no final ones
        final = "--final " if end.settled > end.done and not embeds else ""
        lines.append(_to_list("what failed", directory, f"{final}--outcome {','.join(failed)}", is_kept))
    elif end.outcomes.get("ok") and is_kept:
        lines.append(f"to see what it has brought: crawler summary {shlex.quote(directory)}")
    return "\n".join(lines)


def _changes(before: Mapping[str, int], after: Mapping[str, int], to_list: str) -> list[str]:
    """What this run found changed, and the command for it: by a schedule changes are counted over all runs."""
    now = {change: max(0, count - before.get(change, 0)) for change, count in after.items()}
    if not any(count for change, count in now.items() if change != "new"):
        return []
    is_news = any(count for change, count in now.items() if change != "unchanged")
    return [f"against the last visits{' this time' * any(before.values())}", *_columns(now), *[to_list] * is_news]


def _to_list(what: str, directory: str, which: str, is_kept: bool) -> str:
    if not is_kept:
        return f"with --store memory no command lists {what}: the rows are in {shlex.quote(directory)}/results/"
    return f"to list {what}: crawler results {shlex.quote(directory)} {which}"


def _by_status(end: Snapshot) -> dict[str, int]:
    """Counts by outcome, ``http_error`` by its statuses, as far as they are known."""
    counts = {name: count for name, count in end.outcomes.items() if name != "http_error"}
    errors = {f"http_error {status}": count for status, count in end.statuses.items()}
    rest = end.outcomes.get("http_error", 0) - sum(errors.values())
    return counts | errors | ({"http_error": rest} if rest > 0 else {})


def _had_nothing_left(begun: Snapshot, end: Snapshot) -> bool:
    """Whether earlier runs had finished the crawl, and this one brought nothing new."""
    is_same = (begun.known, begun.settled, begun.lines) == (end.known, end.settled, end.lines)
    return is_same and end.done > 0 and not end.bytes and not begun.waiting + begun.retrying


def _blocked(count: int, earlier: int, directory: str, opened: bool) -> list[str]:
    """What to do about ``count`` URLs that are blocked, ``earlier`` of them since an earlier run."""
    lines = []
    if count > earlier or (count and not opened):
        lines.append("blocked: addresses of private networks are refused; to open a range: --allow-net CIDR")
    if opened and earlier:
        retry = f"crawler retry {shlex.quote(directory)} --outcome blocked"
        lines.append(
            f"blocked by earlier runs, not asked for again: {earlier:,}; to ask with what --allow-net opens now: {retry}"
        )
    return lines


def _columns(counts: Mapping[str, int]) -> list[str]:
    shown = sorted(((count, printable(name)) for name, count in counts.items() if count), key=lambda pair: (-pair[0], pair[1]))
    width = max((len(name) for _, name in shown), default=0)
    digits = max((len(f"{count:,}") for count, _ in shown), default=0)
    return [f"  {name:<{width}}  {f'{count:,}':>{digits}}" for count, name in shown]


class Progress:
    """Takes snapshots as often as they come; writes at most four times a second, or every 10 s as plain lines.

    A stream that can no longer be written, such as a terminal that was closed, does not end a crawl: from then on nothing
    is shown."""

    def __init__(self, mode: Literal["bar", "plain", "none"], stream: TextIO, again: str = CONTINUES) -> None:
        self._mode, self._stream, self._again = mode, stream, again
        self._rates = Rates()
        self._written: Snapshot | None = None
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._mode == "bar":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream, emoji=False), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            with suppress(OSError):
                self._live.stop()

    def leave(self) -> None:
        """Give the terminal back, and say so, in a process that ends at once."""
        if self._mode == "none" or not takes_more(self._stream):
            return
        cursor = "\r\n\x1b[?25h" if self._live else ""  # which the live line has hidden
        with suppress(OSError):
            os.write(self._stream.fileno(), f"{cursor}crawler: ended at once: {self._again}\n".encode())

    def show(self, now: Snapshot) -> None:
        self._rates.add(now)
        if not self._is_due(now) or not takes_more(self._stream):
            return
        self._written = now
        line = status_line(now, self._rates)
        if now.state == "draining":
            line = f"Ctrl-C ends at once · {line}"
        with suppress(OSError):
            if self._live:
                from rich.text import Text

                text = Text(line, no_wrap=True)
                text.truncate(max(1, self._live.console.width - _MARGIN), overflow="ellipsis")
                self._live.update(text, refresh=True)
            elif self._mode == "plain":
                self._write(line)

    def say(self, line: str) -> None:
        """Print a line above the live line. May be called from another thread."""
        with suppress(OSError):
            if self._live:
                self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                self._write(line)

    def _write(self, line: str) -> None:
        """In one piece: other threads write lines as well."""
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def _is_due(self, now: Snapshot) -> bool:
        last = self._written
        every = LIVE_EVERY_S if self._mode == "bar" else PLAIN_EVERY_S
        return last is None or now.at - last.at >= every or (self._mode == "plain" and now.state != last.state)


def mode(wanted: str, stream: TextIO, environ: Mapping[str, str]) -> Literal["bar", "plain", "none"]:
    """A live line needs a terminal that can erase it."""
    if wanted == "auto":
        return "bar" if stream.isatty() and environ.get("TERM", "dumb") != "dumb" else "plain"
    return "bar" if wanted == "bar" else "plain" if wanted == "plain" else "none"
