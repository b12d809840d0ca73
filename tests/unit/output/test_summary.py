"""What a crawl has brought, counted in bounded memory."""

from __future__ import annotations

from crawler.output.summary import STEPS_MAX, Timeline

YEAR_S = 365 * 86400


def test_a_single_row_a_year_later_widens_the_steps_at_once() -> None:
    times = Timeline()
    times.add(0.0, "ok")
    times.add(YEAR_S, "ok")
    assert max(times.steps) - min(times.steps) < STEPS_MAX
    told = times.as_json()
    assert YEAR_S / STEPS_MAX < told["step"] < 4 * YEAR_S / STEPS_MAX
    assert list(told["counts"].values()) == [{"ok": 1}, {"ok": 1}]
