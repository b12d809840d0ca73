"""A summary as one HTML page with plots, which needs no network: SVG in the page, no script. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Final

from crawler.core.text import amount, printable
from crawler.output.summary import Histogram, Summary, Timeline

COLORS: Final = {"ok": "#3a7d44", "redirect": "#6c8ebf", "skipped": "#999999", "robots_denied": "#c9a227", "failed": "#b03a2e"}
STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222; background: #fff }
h1 { font-size: 1.5em; margin-bottom: 0 } h2 { font-size: 1.05em; margin: 0 0 .4em }
.facts { color: #555; margin: .2em 0 1.6em }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(27em, 1fr)); gap: 1.6em 2em }
.wide { grid-column: 1 / -1 } svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #444 }
table { border-collapse: collapse; width: 100% } td { padding: .1em 0 } td:last-child { text-align: right }
td.bar { width: 45%; padding-left: .6em } td.bar div { background: #6c8ebf; height: .8em; min-width: 1px }
td.name { overflow-wrap: anywhere } .legend span { margin-right: 1.2em } .legend i { display: inline-block; width: .8em; height: .8em; margin-right: .3em }
"""  # noqa: E501


def page(summary: Summary, *, title: str) -> str:
    """The whole page."""
    pages = sum(summary.outcomes.values())
    facts = [f"{pages:,} pages", f"{amount(summary.bytes)} received"]
    facts += [
        f"{count:,} of kind {kind}" for kind, count in sorted(summary.kinds.items()) if kind in ("embed", "robots", "sitemap")
    ]
    parts = [
        _section("Visits over time", _timeline(summary.times), wide=True),
        _section("Outcomes", _table(summary.outcomes.most_common())),
        _section("Status codes", _table(sorted(summary.statuses.items()))),
        _section(summary.types.titled("Types"), _table(summary.types.most())),
        _section(summary.hosts.titled("Hosts"), _table(summary.hosts.most())),
        _section("Sizes of bodies, as sent", _histogram(summary.sizes, _bound)),
        _section("Time to first byte", _histogram(summary.first_byte, _duration)),
    ]
    parts += _rest(summary)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>'
        f'<p class="facts">{escape(" · ".join(facts))}</p>\n<div class="grid">\n' + "\n".join(parts) + "\n</div></body></html>\n"
    )


def _rest(summary: Summary) -> Iterable[str]:
    """What not every crawl has."""
    if any(change != "new" for change in summary.changes):
        yield _section("Against the last visits", _table(summary.changes.most_common()))
    if len(summary.failing):
        yield _section(summary.failing.titled("Hosts with most failures"), _table(summary.failing.most()))
    if summary.reasons:
        yield _section("Reasons", _table(summary.reasons.most_common(10)))
    if summary.missing:
        yield _section(summary.incomplete.titled("Pages that lack something"), _table(summary.incomplete.most()))


def _section(title: str, content: str, *, wide: bool = False) -> str:
    return f"<section{' class=wide' * wide}><h2>{escape(title)}</h2>{content}</section>"


def _table(counts: Sequence[tuple[str, int]]) -> str:
    most = max((count for _, count in counts), default=1) or 1
    rows = (
        f'<tr><td class="name">{escape(printable(name))}</td><td class="bar">'
        f'<div style="width:{100 * count / most:.1f}%"></div></td><td>{count:,}</td></tr>'
        for name, count in counts
    )
    return f"<table>{''.join(rows)}</table>" if counts else "<p>none</p>"


def _timeline(times: Timeline) -> str:
    """Stacked bars, a step each."""
    if not times.steps:
        return "<p>nothing yet</p>"
    first, last = min(times.steps), max(times.steps)
    most = max(sum(counts.values()) for counts in times.steps.values())
    width, height, left = 960, 180, 46
    bar = (width - left) / (last - first + 1)
    shapes = []
    for step, counts in times.steps.items():
        top = 0.0
        for name, color in COLORS.items():
            size = height * counts[name] / most
            if size:
                x, y = left + (step - first) * bar, height - top - size
                shapes.append(
                    f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(bar - 0.4, 0.6):.1f}" height="{size:.1f}" fill="{color}"/>'
                )
            top += size
    begin, end = (_moment(step * times.step_s) for step in (first, last + 1))
    shapes.append(f'<line x1="{left}" y1="{height}" x2="{width}" y2="{height}" stroke="#888"/>')
    shapes.append(
        f'<text x="{left - 6}" y="12" text-anchor="end">{most:,}</text><text x="{left}" y="{height + 16}">{begin}</text>'
    )
    shapes.append(f'<text x="{width}" y="{height + 16}" text-anchor="end">{end}, per {_duration(times.step_s)}</text>')
    names = "".join(f'<span><i style="background:{color}"></i>{name}</span>' for name, color in COLORS.items())
    return f'<svg viewBox="0 0 {width} {height + 22}" role="img">{"".join(shapes)}</svg><div class="legend">{names}</div>'


def _histogram(histogram: Histogram, unit: Callable[[float], str]) -> str:
    labels = [f"≤ {unit(bound)}" for bound in histogram.bounds] + [f"> {unit(histogram.bounds[-1])}"]
    found = [at for at, count in enumerate(histogram.counts) if count]
    return _table(list(zip(labels, histogram.counts, strict=True))[found[0] : found[-1] + 1] if found else [])


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _bound(size: float) -> str:
    """Of a histogram over sizes, whose bounds are powers of 2."""
    for prefix in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {prefix}"
        size /= 1024
    return f"{size:.3g} TiB"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:g} ms"
    return f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
