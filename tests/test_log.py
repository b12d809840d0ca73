"""The log: text or JSON lines, levels, and a reader that does not read."""

import io
import json
import threading

import pytest
from pages import lease_of, page_of

from crawler.log import LINES_MAX, Log
from crawler.model import Done, Dropped, Retry, Unvisited


def lines_of(level: str = "debug", form: str = "text", *, speak, stamped: bool = True) -> list[str]:
    written: list[str] = []
    with Log(written.append, level=level, form=form, stamped=stamped) as log:
        speak(log)
    return written


def test_json_lines_are_objects_with_time_level_and_event():
    (line,) = lines_of(form="json", speak=lambda log: log('a "quoted"\nline'))
    told = json.loads(line)
    assert told["event"] == 'a "quoted"\nline' and told["level"] == "info" and told["time"].endswith("+00:00")
    assert "\n" not in line


def test_text_lines_say_it_plainly_and_cannot_steer_a_terminal():
    (line,) = lines_of(speak=lambda log: log("evil \x1b]0;x\x07 name"), stamped=False)
    assert line == "evil ?]0;x? name"
    (line,) = lines_of(speak=lambda log: log("hello"))
    assert line.endswith("+00:00 hello")


@pytest.mark.parametrize(("level", "count"), [("debug", 2), ("info", 2), ("warning", 1), ("error", 1)])
def test_levels_leave_out_what_was_not_asked_for(level, count):
    def speak(log: Log) -> None:
        log("something happened")
        log("something broke", "error")

    assert len(lines_of(level, speak=speak)) == count


def test_a_visit_is_one_line_and_a_lease_given_back_is_none(tmp_path):
    page = page_of(tmp_path, b"x" * 100, url="http://a.example/b")
    lease = lease_of(page)

    def speak(log: Log) -> None:
        log.visit(lease, Done(page, "ok"))
        log.visit(lease, Retry("timeout", "read_timeout", after=2.5))
        log.visit(lease, Dropped("robots_denied", "rule"))
        log.visit(lease, Unvisited())

    done, retry, dropped = (json.loads(line) for line in lines_of(form="json", speak=speak))
    assert (done["outcome"], done["url"], done["status"], done["bytes"]) == ("ok", "http://a.example/b", 200, page.bytes_wire)
    assert (retry["outcome"], retry["reason"], retry["retry_in"]) == ("timeout", "read_timeout", 2.5)
    assert (dropped["outcome"], dropped["reason"]) == ("robots_denied", "rule")
    page.body.discard()


def test_a_reader_that_does_not_read_holds_up_nobody_and_what_was_lost_is_told():
    gate, written = threading.Event(), []

    def slow(line: str) -> None:
        gate.wait(30)
        written.append(line)

    with Log(slow, level="info", form="text", stamped=False) as log:
        for number in range(LINES_MAX * 2):
            log(f"line {number}")
        assert LINES_MAX - 1 <= log.dropped <= LINES_MAX
        gate.set()
    assert len(written) + log.dropped == LINES_MAX * 2 + 1
    assert [line for line in written if "were not logged" in line] == [
        f"{log.dropped} lines were not logged: nobody read them fast enough"
    ]


def test_a_reader_that_never_reads_does_not_keep_the_process(monkeypatch):
    monkeypatch.setattr("crawler.log.CLOSE_S", 0.05)
    never = threading.Event()
    stream = io.StringIO()
    with Log(lambda line: (never.wait(30), stream.write(line)), level="info", form="text") as log:
        log("hello")
    assert stream.getvalue() == ""
    never.set()
