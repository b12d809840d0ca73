"""What a crawl has brought, counted in bounded memory."""

from __future__ import annotations

import orjson

from crawler.output.summary import FEW_MAX, KEPT_MAX, STEPS_MAX, Summary, Timeline, Top

YEAR_S = 365 * 86400
WHEN = {"fetched_at": "2026-11-23T10:00:00.123Z", "timings": {"first_byte": 1.0, "total": 1.0}}


def test_a_single_row_a_year_later_widens_the_steps_at_once() -> None:
    times = Timeline()
    times.add(0.0, "ok")
    times.add(YEAR_S, "ok")
    assert max(times.steps) - min(times.steps) < STEPS_MAX
    told = times.as_json()
    assert YEAR_S / STEPS_MAX < told["step"] < 4 * YEAR_S / STEPS_MAX
    assert list(told["counts"].values()) == [{"ok": 1}, {"ok": 1}]


def test_of_more_names_than_are_kept_no_count_is_too_high() -> None:
    top, names = Top(), [f"h{number}.test" for number in range(5 * KEPT_MAX)]
    for _ in range(3):
        for name in names:
            top.add(name)
            top.add("busy.test")
    assert top.most(2)[0][0] == "busy.test" and 0 < top.most(2)[1][1] <= 3 and len(top) <= KEPT_MAX
    assert (top.most(1)[0][1], top.titled("hosts")) == (15 * KEPT_MAX, "hosts (at least)")


def test_of_fewer_names_every_count_is_right() -> None:
    top = Top()
    for number in range(KEPT_MAX):
        top.add(f"h{number}.test", number)
    assert top.most(2) == [(f"h{KEPT_MAX - 1}.test", KEPT_MAX - 1), (f"h{KEPT_MAX - 2}.test", KEPT_MAX - 2)]
    assert top.titled("hosts") == "hosts"


def test_rows_of_others_making_fill_nothing() -> None:
    """A type may be as long as a line of a head; names of what is a closed set may be of any length, and ever new."""
    summary = Summary()
    for number in range(3 * FEW_MAX):
        name = f"{number} {'x' * 20_000}"
        named = dict.fromkeys(("outcome", "reason", "kind", "change", "mime"), name)
        summary.add({**named, "canonical": f"http://{name}/", "status": number, "bytes_wire": 1, **WHEN})
    assert sum(summary.reasons.values()) == 3 * FEW_MAX
    assert len(summary.reasons) == len(summary.statuses) == FEW_MAX + 1
    told = orjson.dumps(summary.as_json(), option=orjson.OPT_NON_STR_KEYS)
    assert len(told) < 4 << 20, "in JSON alone they took 1.5 GB"
