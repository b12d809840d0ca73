"""What a person is told of a running crawl: one live line on a terminal, plain lines elsewhere, a table at the end.

Everything that decides what is said is pure; ``Progress`` alone writes, and only to the stream it was given.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TextIO

from crawler.core.model import NO_FAILURE, LongestHost, Snapshot
from crawler.core.text import printable
from crawler.parse.seeds import WHAT_TO_DO

if TYPE_CHECKING:
    from rich.live import Live

RATE_WINDOW_S: Final = 30.0
LIVE_EVERY_S: Final = 0.25
PLAIN_EVERY_S: Final = 10.0
_SAMPLES_MAX: Final = 256
_MARGIN: Final = 3
"""Columns kept free behind the live line: the ^C that a terminal echoes there must not break it, or it is not erased."""
_WORTH_SAYING_S: Final = 60.0
_BESIDES: Final = {"robots": "robots.txt", "sitemap": "of sitemaps"}


class Eta(NamedTuple):
    """Seconds until the crawl is done as far as is known now; ``host`` if that one's politeness decides it."""

    seconds: float
    host: LongestHost | None


def eta(rest: int, rate: float, longest: LongestHost | None) -> Eta | None:
    """max(rest ÷ rate, the longest host's waiting × its rest ÷ per_host); None if nothing can be said."""
    by_rate = rest / rate if rate > 0 else None
    by_host = longest.waiting * longest.rest / longest.per_host if longest else 0.0
    if longest and by_host > (by_rate or 0.0):
        return Eta(by_host, longest)
    return None if by_rate is None else Eta(by_rate, None)


class Rates:
    """Pages and bytes per second over the last 30 s of snapshots."""

    def __init__(self) -> None:
        self._samples: deque[Snapshot] = deque(maxlen=_SAMPLES_MAX)

    def add(self, snapshot: Snapshot) -> None:
        if self._samples and snapshot.at - self._samples[-1].at < RATE_WINDOW_S / _SAMPLES_MAX:
            return
        self._samples.append(snapshot)
        while snapshot.at - self._samples[0].at > RATE_WINDOW_S:
            self._samples.popleft()

    @property
    def pages(self) -> float:
        return (self._samples[-1].done - self._samples[0].done) / self._seconds if self._seconds else 0.0

    @property
    def bytes(self) -> float:
        return (self._samples[-1].bytes - self._samples[0].bytes) / self._seconds if self._seconds else 0.0

    @property
    def _seconds(self) -> float:
        return self._samples[-1].at - self._samples[0].at if self._samples else 0.0


def duration(seconds: float) -> str:
    """``27 h``, ``3 min 20 s``, ``2 d 3 h``: at most two units."""
    rest = round(seconds)
    parts: list[str] = []
    for length, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, length)
        if count or (not parts and name == "s"):
            parts.append(f"{count:,} {name}")
        elif parts:
            break
    return " ".join(parts[:2])


def _took(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def amount(size: float) -> str:
    """``3.4 MB``, in powers of 1000."""
    for prefix in ("", "k", "M", "G", "T"):
        if size < 999.5 or prefix == "T":
            return f"{size:.0f} B" if not prefix else f"{size:.3g} {prefix}B" if size < 100 else f"{size:.0f} {prefix}B"
        size /= 1000
    raise AssertionError


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.1f}/s"


def status_line(now: Snapshot, rates: Rates) -> str:
    """Done of known, how fast, what the workers wait for, and when it will be over."""
    parts = [
        f"{now.state}: " * (now.state != "running") + f"{now.done:,}/{now.known:,}{'+' * now.reading} URLs",
        _per_second(rates.pages),
        f"{amount(rates.bytes)}/s",
        f"{now.in_flight:,} in flight",
    ]
    if now.retrying:
        parts.append(f"{now.retrying:,} to retry")
    if now.waits_for != "nothing":
        parts.append(f"waits for {now.waits_for}")
    rest = now.waiting + now.retrying
    if now.state == "running" and rest and (expected := eta(rest, rates.pages, now.longest_host)):
        parts.append(f"{'at least ' * now.reading}{duration(expected.seconds)} left")
        if expected.host and expected.seconds >= _WORTH_SAYING_S:
            return " · ".join(parts) + " " + _politeness_rules(expected.seconds, expected.host)
    return " · ".join(parts)


def _politeness_rules(seconds: float, host: LongestHost) -> str:
    return f"({printable(host.host)} alone: {duration(seconds)} at {host.rest:g} s; if it is yours: --delay 0 --per-host 16)"


def closing_table(
    end: Snapshot,
    seconds: float,
    *,
    directory: str,
    stopped_by: str | None,
    begun: Snapshot | None = None,
    opened: bool = False,
) -> str:
    """Counts by outcome, the ten hosts with most failures, the command that lists them. ``seconds``: how long this run took;
    ``begun``: what it found in the directory; ``opened``: it may connect to some private networks (--allow-net)."""
    lines = [f"{end.done:,} of {end.known:,} URLs settled, {amount(end.bytes)}, {_took(seconds)} this time"]
    if stopped_by:
        lines.append(f"stopped before the end ({stopped_by}): the same command continues")
    lines += _columns(end.outcomes)
    lines += _blocked(end.outcomes.get("blocked", 0), begun.outcomes.get("blocked", 0) if begun else 0, directory, opened)
    if end.lines:
        lines += ["lines of the lists that are no URL of their own", *_columns(end.lines)]
        lines += [f"{reason}: {what}" for reason, what in WHAT_TO_DO.items() if end.reasons.get(reason)]
    if besides := [f"{count:,} {_BESIDES.get(kind, kind)}" for kind, count in sorted(end.not_pages.items()) if count]:
        lines.append(f"fetched besides, no pages: {', '.join(besides)}")
    if end.refused:
        lines += ["links left out, by rule", *_columns(end.refused)]
    if end.failing_hosts:
        lines += ["hosts with most failures", *_columns(dict(end.failing_hosts[:10]))]
    failed = [outcome for outcome, count in end.outcomes.items() if count and outcome not in NO_FAILURE]
    failed += ["invalid_url"] * bool(end.lines.get("invalid_url"))
    if failed:
        lines.append(f"to list them: crawler results {shlex.quote(directory)} --outcome {','.join(failed)}")
    return "\n".join(lines)


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

    A stream that takes nothing any more, such as a terminal that was closed, is no reason for a crawl to end: from then on
    nothing is said."""

    def __init__(self, mode: Literal["bar", "plain", "none"], stream: TextIO) -> None:
        self._mode, self._stream = mode, stream
        self._rates = Rates()
        self._written: Snapshot | None = None
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._mode == "bar":
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self._stream), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            with suppress(OSError):
                self._live.stop()

    def show(self, now: Snapshot) -> None:
        self._rates.add(now)
        if not self._is_due(now):
            return
        self._written = now
        line = status_line(now, self._rates)
        with suppress(OSError):
            if self._live:
                from rich.text import Text

                text = Text(line, no_wrap=True)
                text.truncate(max(1, self._live.console.width - _MARGIN), overflow="ellipsis")
                self._live.update(text, refresh=True)
            elif self._mode == "plain":
                print(line, file=self._stream, flush=True)

    def say(self, line: str) -> None:
        """A line of its own; a live line stays below it. May be called from another thread."""
        with suppress(OSError):
            if self._live:
                self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                print(line, file=self._stream, flush=True)

    def _is_due(self, now: Snapshot) -> bool:
        last = self._written
        every = LIVE_EVERY_S if self._mode == "bar" else PLAIN_EVERY_S
        return last is None or now.at - last.at >= every or (self._mode == "plain" and now.state != last.state)


def mode(wanted: str, stream: TextIO, environ: Mapping[str, str]) -> Literal["bar", "plain", "none"]:
    """A live line needs a terminal that can erase it."""
    if wanted == "auto":
        return "bar" if stream.isatty() and environ.get("TERM", "dumb") != "dumb" else "plain"
    return "bar" if wanted == "bar" else "plain" if wanted == "plain" else "none"
