"""The log: text or JSON lines, levels, and a reader that does not read."""

import io
import json
import logging
import shlex
import subprocess
import sys
import threading

import pytest
from support.pages import lease_of, page_of
from support.programs import MOUNTING
from support.waiting import wait_until

from crawler.cli.log import LINES_BYTES_MAX, RECORD_BYTES, CallHandler, Log, lines_are_stuck, log_of_daemon
from crawler.config.load import load
from crawler.core.errors import ConfigError
from crawler.core.model import Done, Dropped, Retry, Unvisited
from crawler.crawl.visitor import log_visit

logger = logging.getLogger("crawler.somewhere")


def lines_of(level: str = "debug", form: str = "text", *, speak, stamped: bool = True) -> list[str]:
    written: list[str] = []
    with Log(CallHandler(written.append), level=level, form=form, stamped=stamped) as log:
        speak(log)
    return written


def test_json_lines_are_objects_with_time_level_and_event():
    (line,) = lines_of(form="json", speak=lambda log: logger.info('a "quoted"\nline'))
    told = json.loads(line)
    assert told["event"] == 'a "quoted"\nline' and told["level"] == "info" and told["time"].endswith("Z")
    assert set(told) == {"time", "level", "event"} and "\n" not in line


def test_text_lines_say_it_plainly_and_cannot_steer_a_terminal():
    (line,) = lines_of(speak=lambda log: logger.info("evil %s name", "\x1b]0;x\x07"), stamped=False)
    assert line == "evil ?]0;x? name"
    (line,) = lines_of(speak=lambda log: logger.info("hello"))
    assert line.endswith("Z hello")
    (line,) = lines_of(speak=lambda log: logger.warning("it is late"), stamped=False)
    assert line == "warning: it is late"


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels_leave_out_what_was_not_asked_for(level, count):
    def speak(log: Log) -> None:
        for severity in ("debug", "info", "warning", "error"):
            getattr(logger, severity)("something happened")

    assert len(lines_of(level, speak=speak)) == count


def test_a_visit_is_one_line_and_a_lease_given_back_is_none(tmp_path):
    page = page_of(tmp_path, b"x" * 100, url="http://a.example/b")
    lease = lease_of(page)

    def speak(log: Log) -> None:
        for outcome in (
            Done(page, "ok"),
            Retry("timeout", "read_timeout"),
            Dropped("robots_denied", "rule"),
            Unvisited(),
        ):
            log_visit(lease, outcome)

    done, retry, dropped = (json.loads(line) for line in lines_of(form="json", speak=speak))
    assert (done["outcome"], done["url"], done["status"], done["bytes"]) == ("ok", "http://a.example/b", 200, page.bytes_wire)
    assert (retry["outcome"], retry["reason"]) == ("timeout", "read_timeout")
    assert (dropped["outcome"], dropped["reason"]) == ("robots_denied", "rule")
    page.body.discard()


def test_a_reader_that_does_not_read_holds_up_nobody_and_what_was_lost_is_told():
    gate, written, lines = threading.Event(), [], 2 * LINES_BYTES_MAX // (RECORD_BYTES + 2010)

    def slow(line: str) -> None:
        gate.wait(30)
        written.append(line)

    with Log(CallHandler(slow), level="info", form="text", stamped=False) as log:
        for number in range(lines):
            logger.info("line %d", number, extra={"url": "x" * 2000})
        assert lines // 2 - 2 <= log.dropped <= lines // 2 + 2, "in bytes: 10,000 lines of visits took 34 MB"
        gate.set()
    assert len(written) + log.dropped == lines + 1
    assert [line for line in written if "were not logged" in line] == [
        f"error: {log.dropped} lines were not logged: they were not read fast enough, or could not be written"
    ]


def test_a_reader_that_never_reads_does_not_keep_the_process(monkeypatch):
    monkeypatch.setattr("crawler.cli.log.CLOSE_S", 0.05)
    never = threading.Event()
    stream = io.StringIO()
    with Log(CallHandler(lambda line: (never.wait(30), stream.write(line))), level="info", form="text"):
        logger.info("hello")
    assert stream.getvalue() == "" and lines_are_stuck()
    never.set()
    wait_until(lambda: not lines_are_stuck())


def test_logs_one_after_the_other_that_nobody_reads_leave_one_thread_and_the_last_is_read_once_somebody_does(monkeypatch):
    """Of a daemon that waits for a full disk each attempt has a log of its own, and left a thread."""
    monkeypatch.setattr("crawler.cli.log.CLOSE_S", 0.05)
    reads, written, before = threading.Event(), [], threading.active_count()

    def slow(line: str) -> None:
        reads.wait(30)
        written.append(line)

    for number in range(5):
        with Log(CallHandler(slow), level="info", form="text", stamped=False):
            logger.info("attempt %d", number)
    assert threading.active_count() == before + 1
    with Log(CallHandler(slow), level="info", form="text", stamped=False):
        logger.info("open")
        reads.set()
        wait_until(lambda: not lines_are_stuck())
        logger.info("goes on")
    assert written == ["attempt 0", "open", "goes on"]


def test_what_cannot_be_written_is_counted_and_told_once_it_can():
    written, broken = [], threading.Event()
    broken.set()

    def failing(line: str) -> None:
        if broken.is_set():
            raise OSError(28, "No space left on device")
        written.append(line)

    with Log(CallHandler(failing), level="info", form="text", stamped=False) as log:
        logger.info("lost")
        while not log.dropped:
            threading.Event().wait(0.01)
        broken.clear()
        logger.info("through")
    assert written == ["through", "error: 1 lines were not logged: they were not read fast enough, or could not be written"]


def test_a_file_on_a_full_disk_does_not_change_how_the_process_ends():
    with log_of_daemon(load({"log_file": "/dev/full"}).config) as log:
        logger.info("lost")
        wait_until(lambda: log.dropped)
    assert not lines_are_stuck()


def test_the_level_can_be_changed():
    def speak(log: Log) -> None:
        log.change("error")
        logger.info("left out")
        log.change("debug")
        logger.debug("told")

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
        assert line.startswith("error: it is broken logger=some.library\nTraceback") and line.endswith("KeyError: 'x'")
    else:
        told = json.loads(line)
        assert (told["level"], told["event"], told["logger"]) == ("error", "it is broken", "some.library")
        assert told["exception"].endswith("KeyError: 'x'")
    assert not [each for each in logging.getLogger().handlers if type(each).__module__ == "crawler.cli.log"]


def test_a_file_that_was_renamed_or_has_gone_is_opened_anew(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "crawler.log"

    with log_of_daemon(load({"log_file": str(path), "log_format": "text"}).config) as log:
        logger.info("one")
        wait_until(lambda: path.read_text())
        path.rename(tmp_path / "crawler.log.1")
        folder.rmdir()
        logger.info("lost: there is no folder")
        wait_until(lambda: log.dropped)
        folder.mkdir()
        logger.info("two")
    assert (tmp_path / "crawler.log.1").read_text().endswith("Z one\n")
    first, second = path.read_text().splitlines()
    assert first.endswith("Z two") and "1 lines were not logged" in second
    with pytest.raises(ConfigError, match=r"log_file .*: Is a directory"):
        log_of_daemon(load({"log_file": str(tmp_path)}).config)


WITHOUT_ROOM = """
import logging, sys, time
from pathlib import Path
from crawler.cli.log import log_of_daemon
from crawler.config.load import load

file, other = Path(sys.argv[1], "log"), Path(sys.argv[1], "other")
other.touch()
with log_of_daemon(load({"log_file": str(file), "log_format": "text"}).config) as log:
    logging.getLogger("crawler.x").info("lost")
    while not log.dropped:
        time.sleep(0.01)
    other.unlink()
    logging.getLogger("crawler.x").info("through")
print(file.read_text())
"""


def test_a_file_that_a_full_disk_has_no_room_for_is_opened_when_there_is_some(tmp_path):
    """It was a fault of the configuration, exit 2: a service manager does not begin such a daemon again."""
    program = shlex.join([sys.executable, "-c", WITHOUT_ROOM, str(tmp_path)])
    script = f"mount -t tmpfs -o nr_inodes=2 tmpfs {tmp_path} || exit 77; {program}"
    ended = subprocess.run([*MOUNTING, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip("no mount namespaces here")
    through, lost = ended.stdout.split("\n", 1)
    assert through.endswith("Z through") and "1 lines were not logged" in lost, ended


def test_a_log_that_nobody_configured_says_nothing_below_a_warning(capfd):
    """Whoever uses the package from Python configures logging himself."""
    logging.getLogger("crawler.crawl").info("hello")
    assert capfd.readouterr() == ("", "")
