"""What a person is told of a running crawl: rates, ETA, the live line, plain lines, the closing table."""

import io
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from crawler.cli.progress import Progress, closing_table, how_to_go_on, mode
from crawler.config import Config
from crawler.core.snapshot import LongestHost, Snapshot
from crawler.crawl.status import Eta, Left, Rates, amount, duration, eta, left, status_line

HUGE = LongestHost("example.org", 97_200, 1.0, 1)


def snap(at: float, **fields) -> Snapshot:
    return Snapshot(**{"at": at, "state": "running", **fields})


class Pieces(io.StringIO):
    """Counts what it is given: between two pieces another thread may write."""

    count = 0

    def write(self, text):
        self.count += 1
        return super().write(text)


def test_a_line_is_written_in_one_piece():
    with Progress("plain", Pieces()) as progress:
        progress.say("from another thread")
        progress.show(snap(0.0))
    assert progress._stream.count == progress._stream.getvalue().count("\n") == 2


def test_the_eta_is_the_rest_over_the_rate():
    assert eta(1000, 10.0, None) == Eta(100.0, None)
    assert eta(1000, 10.0, LongestHost("a", 5, 1.0, 1)) == Eta(100.0, None)


def test_where_one_host_takes_longer_its_politeness_is_the_eta():
    assert eta(100_000, 1000.0, HUGE) == Eta(97_200.0, HUGE)
    assert eta(100_000, 0.0, HUGE) == Eta(97_200.0, HUGE)
    assert eta(16, 1000.0, LongestHost("a", 16, 2.0, 4)).seconds == 8.0


def test_without_a_rate_nothing_is_promised():
    assert eta(1000, 0.0, None) is None
    assert eta(1000, 0.0, LongestHost("a", 10, 0.0, 1)) is None


@given(st.integers(1, 10**9), st.floats(0.001, 1e5), st.integers(0, 10**7), st.floats(0, 100), st.integers(1, 64))
def test_the_eta_is_never_below_either_bound(rest, rate, waiting, pause, per_host):
    expected = eta(rest, rate, LongestHost("a", waiting, pause, per_host))
    assert expected.seconds == max(rest / rate, waiting * pause / per_host)


def test_rates_cover_the_last_half_minute_only():
    rates = Rates()
    assert rates.pages == 0
    for second in range(100):
        rates.add(snap(float(second), done=second * 5, bytes=second * 1000))
    for second in range(100, 200):
        rates.add(snap(float(second), done=500, bytes=100_000))
    assert rates.pages == 0 and rates.bytes == 0
    rates.add(snap(201.0, done=800))
    assert rates.pages == pytest.approx(300 / 30)


def test_rates_keep_few_samples_however_often_they_come():
    rates = Rates()
    for tick in range(20_000):
        rates.add(snap(tick / 1000, done=tick))
    assert len(rates._samples) <= 256
    assert rates.pages == pytest.approx(1000, rel=0.01)


def test_the_line_says_what_failed_and_how_long_it_goes_on_before_all_else():
    rates = Rates()
    rates.add(snap(0, known=20_000))
    now = snap(10, done=2000, known=20_000, waiting=18_000, bytes=34_000_000, in_flight=64, waits_for="memory", retrying=3)
    rates.add(now)
    expected = "1 min 30 s left · 2,000/20,000 URLs · 200/s · 3.4 MB/s · 64 in flight · 3 to retry · waits for memory"
    assert status_line(now, rates) == expected
    failed = replace(now, outcomes={"ok": 1900, "timeout": 60, "http_error": 40, "robots_denied": 9})
    assert status_line(failed, rates).startswith("100 failed · 1 min 30 s left · ")
    ended = status_line(replace(now, state="ended", retrying=0, in_flight=0), rates)
    assert ended == "ended: 2,000/20,000 URLs · 200/s · 3.4 MB/s · 0 in flight", "it waits for nothing any more"


def test_while_links_are_found_the_time_left_is_a_least_one():
    """More is known than a moment ago: what is said to be left now will not be all."""
    rates = Rates()
    rates.add(snap(0, known=100))
    rates.add(snap(10, known=200, done=100))
    now = snap(10, known=200, done=100, waiting=100)
    assert left(now, rates) == Left(10.0, True, None)
    for second in range(11, 60):
        rates.add(snap(second, known=200, done=100 + second))
    assert left(now, rates).at_least is False
    assert left(replace(now, state="paused"), rates) is None
    assert left(replace(now, waiting=0), rates) is None
    assert left(now, Rates()) is None, "nothing is known of its speed"
    endless = replace(now, longest_host=LongestHost("a.test", 9, 1e308))
    assert left(endless, rates).at_least
    assert status_line(endless, rates).startswith("at least 11,574 d 1 h left"), "a number that is none ended the daemon"


def test_while_it_drains_people_are_told_what_ctrl_c_does():
    stream = Terminal()
    with Progress("bar", stream) as progress:
        progress.show(snap(0, state="draining", in_flight=3))
    assert "Ctrl-C ends at once · draining" in stream.getvalue(), "it may drain for another reason: that is no second time"


def test_the_line_names_the_host_whose_politeness_rules():
    now = snap(0, known=97_200, waiting=97_200, longest_host=HUGE, waits_for="politeness")
    line = status_line(now, Rates())
    assert line.startswith("1 d 3 h left · 0/97,200 URLs")
    assert line.endswith("politeness (example.org alone: 1 d 3 h at 1 s; if it is yours: --delay 0 --per-host 16)")


def test_the_line_says_when_more_may_come_and_when_it_does_not_run():
    rates = Rates()
    rates.add(snap(0))
    rates.add(snap(1, done=1))
    assert "1/50+ URLs" in status_line(snap(1, done=1, known=50, waiting=49, reading=True), rates)
    assert "at least 49 s left" in status_line(snap(1, done=1, known=50, waiting=49, reading=True), rates)
    paused = status_line(snap(1, state="paused", known=50, waiting=49, waits_for="disk"), rates)
    assert paused.startswith("paused: 0/50 URLs") and "left" not in paused


def test_nothing_a_server_says_reaches_the_terminal_raw():
    evil = "a\x1b]0;owned\x07.example"
    now = snap(0, waiting=9000, known=9000, longest_host=LongestHost(evil, 9000, 1.0, 1), failing_hosts=((evil, 3),))
    assert "\x1b" not in status_line(now, Rates()) and "\x07" not in closing_table(now, 1, directory="out", stopped_by=None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (97_200, "1 d 3 h"), (7200, "2 h"), (7 * 86400 + 59, "7 d")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_234_567, "1.23 MB"), (123_456_789, "123 MB")]
)
def test_amounts(size, text):
    assert amount(size) == text


def test_the_closing_table_counts_names_the_worst_hosts_and_the_command_that_lists_them():
    end = snap(
        0,
        done=12_345,
        known=12_345,
        bytes=5_000_000,
        outcomes={"ok": 12_000, "timeout": 300, "http_error": 50, "blocked": 45, "dns_error": 0},
        statuses={"404": 41, "503": 4},
        refused={"scope": 1_000},
        lines={"duplicate": 7, "invalid_url": 12},
        failing_hosts=tuple((f"h{n}.example", 100 - n) for n in range(12)),
    )
    table = closing_table(end, 61, directory="my out", stopped_by="SIGINT")
    assert table.splitlines() == [
        "12,345 of 12,345 URLs settled, 5 MB, 1 min 1 s this time",
        "stopped before the end (SIGINT): the same command continues",
        "  ok              12,000",
        "  timeout            300",
        "  blocked             45",
        "  http_error 404      41",
        "  http_error           5",
        "  http_error 503       4",
        "blocked: addresses of private networks are refused; to open a range: --allow-net CIDR",
        "lines of the lists that are no new URL",
        "  invalid_url  12",
        "  duplicate     7",
        "links left out, by rule",
        "  scope  1,000",
        "hosts with most failures",
        *(f"  h{n}.example  {100 - n:>3}" for n in range(10)),
        "to list what failed: crawler results 'my out' --outcome timeout,http_error,blocked,invalid_url",
    ]


@pytest.mark.parametrize(
    ("blocked", "earlier", "opened", "hints"),
    [
        (0, 0, False, []),
        (3, 0, False, ["--allow-net"]),
        (3, 3, False, ["--allow-net"]),
        (5, 3, False, ["--allow-net"]),
        (3, 3, True, ["retry"]),
        (3, 0, True, ["--allow-net"]),
        (5, 3, True, ["--allow-net", "retry"]),
        (0, 0, True, []),
    ],
)
def test_what_to_do_about_blocked_urls_is_not_what_was_done_already(blocked, earlier, opened, hints):
    """Once a range is open, what an earlier run had settled as blocked needs a retry: nothing else asks for it again."""
    end, begun = snap(0, outcomes={"blocked": blocked}), snap(0, outcomes={"blocked": earlier})
    table = closing_table(end, 1, directory="my out", stopped_by=None, begun=begun, opened=opened)
    said = [line for line in table.splitlines() if line.startswith("blocked")]
    assert ["retry" if "crawler retry 'my out' --outcome blocked" in line else "--allow-net" for line in said] == hints


@pytest.mark.parametrize(
    ("reason", "option"), [("proxy", "--proxy"), ("certificate", "--ca-file"), ("resolver_unreachable", "--dns")]
)
def test_a_failure_that_a_setting_may_be_to_blame_for_names_it(reason, option):
    end = snap(0, done=2, known=2, outcomes={"connect_error": 2}, reasons={reason: 1, "refused": 1})
    [named] = [line for line in closing_table(end, 1, directory="out", stopped_by=None).splitlines() if option in line]
    assert named.startswith(f"{reason}: ")
    assert reason != "proxy" or "password" in named, "it is no connection that failed, where the proxy answers 407"


def test_hosts_that_failed_before_this_run_are_not_told_as_all_there_are():
    """Hosts are counted by each process for itself, outcomes by the crawl."""
    end = snap(0, outcomes={"timeout": 300}, failing_hosts=(("h.example", 1),))
    assert "hosts with most failures" in closing_table(end, 1, directory="o", stopped_by=None, begun=snap(0)).splitlines()
    later = closing_table(end, 1, directory="o", stopped_by=None, begun=snap(0, done=299))
    assert "hosts with most failures this time" in later.splitlines()


def test_a_run_that_visited_pages_again_had_something_to_do():
    """Pages that came due by schedule and are not modified cost no body, and are settled as before."""
    begun = snap(0, known=2, done=2, settled=2)
    for end, was_idle in [(replace(begun, settled=3), False), (begun, True)]:
        table = closing_table(end, 1, directory="o", stopped_by=None, begun=begun)
        assert ("nothing was left to do" in table) == was_idle


@pytest.mark.parametrize(("outcome", "is_named"), [("timeout", True), ("dns_error", True), ("http_error", False), ("ok", False)])
def test_where_nothing_was_left_retry_is_named_for_what_it_would_try(outcome, is_named):
    begun = snap(0, known=2, done=2, settled=2, outcomes={outcome: 2})
    table = closing_table(begun, 1, directory="my out", stopped_by=None, begun=begun)
    assert ("crawler retry 'my out'" in table) == is_named and "crawler recrawl 'my out'" in table


def test_an_empty_list_is_told_as_one():
    for end, is_empty in [(snap(0), True), (snap(0, lines={"invalid_url": 1}), False), (snap(0, known=1), False)]:
        table = closing_table(end, 1, directory="o", stopped_by=None, begun=snap(0))
        assert ("no URL was listed" in table) == is_empty
    assert "no URL was listed" not in closing_table(snap(0), 1, directory="o", stopped_by=None, begun=snap(0), error="no room")
    assert "no URL was listed" not in closing_table(snap(0), 1, directory="o", stopped_by="SIGINT", begun=snap(0))


def test_of_a_crawl_that_is_kept_nowhere_no_command_is_named():
    end = snap(0, outcomes={"timeout": 1}, changes={"changed": 1})
    table = closing_table(end, 1, directory="my out", stopped_by=None, is_kept=False)
    assert "crawler results" not in table and "'my out'/results/" in table


@pytest.mark.parametrize(
    ("settings", "again"),
    [
        ({}, "the same command continues"),
        ({"fresh": True}, "the same command with --no-fresh continues"),
        ({"store": "memory"}, "with --store memory the same command begins anew"),
    ],
)
def test_a_crawl_that_is_stopped_tells_how_it_goes_on(settings, again):
    """With --fresh the same command set aside what was to be continued; with --keep-previous 0 it deleted it."""
    end, said = snap(0, known=2, done=1, unstored=1), how_to_go_on(Config(**settings))
    lines = closing_table(end, 1, directory="o", stopped_by="SIGINT", again=said).splitlines()
    assert lines[1] == f"stopped before the end (SIGINT): {again}"
    assert lines[2].endswith(f"there was no time; {again} with them")
    failed = closing_table(end, 1, directory="o", stopped_by=None, begun=snap(0), error="the disk is full", again=said)
    assert failed.splitlines()[1] == f"ended early by an error: {again}"


def test_a_crawl_without_failures_lists_none():
    table = closing_table(snap(0, done=2, known=2, outcomes={"ok": 1, "redirect": 1}), 1, directory="o", stopped_by=None)
    assert "to list" not in table and "stopped" not in table
    assert table.splitlines()[-1] == "to see what it has brought: crawler summary o"


def test_pages_that_have_not_changed_are_not_listed_as_such_that_have():
    for change, is_listed in (("unchanged", False), ("changed", True)):
        end = snap(0, done=2, known=2, outcomes={"ok": 2}, changes={change: 2})
        table = closing_table(end, 1, directory="o", stopped_by=None)
        assert "against the last visits" in table and ("--change new,changed,gone" in table) == is_listed


def test_what_a_run_by_schedule_found_is_told_without_what_earlier_ones_had():
    """A page visited each night is counted each night: the third table said of 11 pages that 22 were unchanged, and 11 new."""
    begun = snap(0, done=11, known=11, outcomes={"ok": 11}, changes={"new": 11, "unchanged": 11})
    end = replace(begun, changes={"new": 11, "unchanged": 21, "changed": 1})
    lines = closing_table(end, 1, directory="o", stopped_by=None, begun=begun, since="2026-11-29T00:00:00Z").splitlines()
    told = lines.index("against the last visits this time")
    assert lines[told + 1 : told + 4] == [
        "  unchanged  10",
        "  changed     1",
        "to list them: crawler results o --change new,changed,gone --since 2026-11-29T00:00:00Z",
    ]
    assert "against the last" not in closing_table(begun, 1, directory="o", stopped_by=None, begun=begun)


def test_plain_lines_come_every_ten_seconds_and_when_the_state_changes():
    stream = io.StringIO()
    with Progress("plain", stream) as progress:
        for tick in range(100):
            progress.show(snap(tick * 0.25, state="draining" if tick >= 98 else "running"))
    assert stream.getvalue().count("\n") == 4  # at 0 s, 10 s and 20 s, and when it drains
    assert "\x1b" not in stream.getvalue()


def test_no_progress_writes_nothing():
    stream = io.StringIO()
    with Progress("none", stream) as progress:
        progress.show(snap(0))
    assert stream.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_above_the_live_one_is_shown_as_it_is():
    stream = Terminal()
    with Progress("bar", stream) as progress:
        progress.say("[b] http://[2001:db8:100::1]/:smile:")
    assert "[b] http://[2001:db8:100::1]/:smile:\n" in stream.getvalue()


def test_the_live_line_is_drawn_at_most_four_times_a_second_and_erased_at_the_end():
    stream = Terminal()
    with Progress("bar", stream) as progress:
        sizes = []
        for tick in range(1000):
            progress.show(snap(tick / 1000, done=tick))
            sizes.append(len(stream.getvalue()))
        drawn = sum(1 for before, after in itertools.pairwise(sizes) if after > before) + 1
    assert drawn == 4
    assert "750/0 URLs" in stream.getvalue()


def test_the_live_line_leaves_room_for_what_a_terminal_echoes(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    with Progress("bar", stream) as progress:
        progress.show(snap(0, done=1_000_000, known=2_000_000, in_flight=100))
    (line,) = {line for line in re.split(r"\x1b\[[?\d]*[a-zA-Z]|[\r\n]", stream.getvalue()) if "URLs" in line}
    assert line.endswith("…") and len(line) == 37


@pytest.mark.parametrize("shown", ["bar", "plain", "none"])
def test_what_must_be_said_is_said_in_every_mode(shown):
    stream = Terminal()
    with Progress(shown, stream) as progress:
        progress.show(snap(0))
        progress.say("disk is [bold]full[/bold]")
    assert "disk is [bold]full[/bold]" in stream.getvalue()


@pytest.mark.parametrize(
    ("wanted", "stream", "environ", "got"),
    [
        ("auto", Terminal(), {"TERM": "xterm"}, "bar"),
        ("auto", Terminal(), {"TERM": "dumb"}, "plain"),
        ("auto", Terminal(), {}, "plain"),
        ("auto", io.StringIO(), {"TERM": "xterm"}, "plain"),
        ("bar", io.StringIO(), {}, "bar"),
        ("none", Terminal(), {"TERM": "xterm"}, "none"),
    ],
)
def test_a_live_line_needs_a_terminal(wanted, stream, environ, got):
    assert mode(wanted, stream, environ) == got
