"""The log: text or JSON lines, levels, and a reader that does not read."""

import io
import json
import logging
import threading

import pytest
from support.pages import lease_of, page_of

from crawler.cli.log import LINES_MAX, Log, LogFile
from crawler.core.errors import ConfigError
from crawler.core.model import Done, Dropped, Retry, Unvisited


def lines_of(level: str = "debug", form: str = "text", *, speak, stamped: bool = True) -> list[str]:
    written: list[str] = []
    with Log(written.append, level=level, form=form, stamped=stamped) as log:
        speak(log)
    return written


def test_json_lines_are_objects_with_time_level_and_event():
    (line,) = lines_of(form="json", speak=lambda log: log('a "quoted"\nline'))
    told = json.loads(line)
    assert told["event"] == 'a "quoted"\nline' and told["level"] == "info" and told["time"].endswith("Z")
    assert "\n" not in line


def test_text_lines_say_it_plainly_and_cannot_steer_a_terminal():
    (line,) = lines_of(speak=lambda log: log("evil \x1b]0;x\x07 name"), stamped=False)
    assert line == "evil ?]0;x? name"
    (line,) = lines_of(speak=lambda log: log("hello"))
    assert line.endswith("Z hello")


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
        f"{log.dropped} lines were not logged: nobody read them fast enough, or they could not be written"
    ]


def test_a_reader_that_never_reads_does_not_keep_the_process(monkeypatch):
    monkeypatch.setattr("crawler.cli.log.CLOSE_S", 0.05)
    never = threading.Event()
    stream = io.StringIO()
    with Log(lambda line: (never.wait(30), stream.write(line)), level="info", form="text") as log:
        log("hello")
    assert stream.getvalue() == ""
    never.set()


def test_what_cannot_be_written_is_counted_and_told_once_it_can():
    written, broken = [], threading.Event()
    broken.set()

    def failing(line: str) -> None:
        if broken.is_set():
            raise OSError(28, "No space left on device")
        written.append(line)

    with Log(failing, level="info", form="text", stamped=False) as log:
        log("lost")
        while not log.dropped:
            threading.Event().wait(0.01)
        broken.clear()
        log("through")
    assert written == ["through", "1 lines were not logged: nobody read them fast enough, or they could not be written"]


def test_the_level_can_be_changed():
    def speak(log: Log) -> None:
        log.change("error")
        log("left out")
        log.change("debug")
        log("told", "debug")

    assert lines_of("info", speak=speak, stamped=False) == ["told"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_libraries_log_comes_along_while_it_is_open(form):
    def speak(log: Log) -> None:
        logging.getLogger("some.library").info("of no interest")
        try:
            raise KeyError("x")
        except KeyError:
            logging.getLogger("some.library").exception("it is %s", "broken")

    (line,) = lines_of(form=form, speak=speak, stamped=False)
    if form == "text":
        assert line.startswith("it is broken logger=some.library\nTraceback") and line.endswith("KeyError: 'x'")
    else:
        told = json.loads(line)
        assert (told["level"], told["event"], told["logger"]) == ("error", "it is broken", "some.library")
        assert told["exception"].endswith("KeyError: 'x'")
    assert not [each for each in logging.getLogger().handlers if type(each).__module__ == "crawler.cli.log"]


def test_a_file_that_was_renamed_is_opened_anew_when_that_is_asked_for(tmp_path):
    path = tmp_path / "crawler.log"
    file = LogFile(str(path))
    file("one")
    path.rename(tmp_path / "crawler.log.1")
    file("two")
    file.reopen()
    file("three \udcff")
    file.close()
    assert (tmp_path / "crawler.log.1").read_text() == "one\ntwo\n"
    assert path.read_text() == "three \\udcff\n"
    with pytest.raises(ConfigError, match=r"log_file .*: Is a directory"):
        LogFile(str(tmp_path))
