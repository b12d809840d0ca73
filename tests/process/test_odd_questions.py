"""The commands that read a crawl, asked for nothing, with a password, or by a pipe that nobody reads."""

import os
import subprocess

import pytest
from support import webs
from support.programs import CLEAN, LOCAL, command, command_of


@pytest.fixture(scope="module")
def crawled(tmp_path_factory):
    root = tmp_path_factory.mktemp("crawled")
    with webs.Web(default=lambda host, path: webs.page(path)).running() as web:
        assert command("run", web.url("127.0.0.1", "/"), "-o", str(root / "out"), *LOCAL).returncode == 0
    return root / "out"


@pytest.mark.parametrize("port", ["{}", "99999"], ids=["unknown", "no URL"])
@pytest.mark.parametrize(
    "words", ["cat DIR URL", "why URL --data DIR", "why URL --data DIR --json", "why http://a.example/ --data DIR --via URL"]
)
def test_no_password_of_a_url_that_is_asked_for_is_repeated(crawled, words, port):
    asked = f"http://me:hidden@127.0.0.1:{port.format(1234)}/"
    ended = command(*words.replace("DIR", str(crawled)).replace("URL", asked).split())
    assert ended.returncode in (2, 4) and "hidden" not in ended.stdout + ended.stderr


OPTIONS = ("--outcome", "--kind", "--change", "--status", "--mime", "--since")


@pytest.mark.parametrize(
    ("name", "option"), [*(("results", option) for option in OPTIONS), ("retry", "--outcome"), ("recrawl", "--outcome")]
)
def test_a_choice_of_nothing_is_none_of_all(crawled, name, option):
    """As of a variable that is not set: all that had been fetched was due again."""
    ended = command(name, str(crawled), f"{option}=")
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert "names none" in ended.stderr or option == "--since"


def test_all_files_are_written_however_few_of_their_rows_are_read(tmp_path):
    with webs.Web(default=lambda host, path: webs.page(path)).running() as web:
        listed = "\n".join(web.url("127.0.0.1", f"/{number}") for number in range(200))
        (tmp_path / "list").write_text(listed)
        assert command("run", "-i", str(tmp_path / "list"), "-o", str(tmp_path / "out"), *LOCAL).returncode == 0
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as nobody:
        options = {"env": CLEAN, "stdout": nobody, "stderr": subprocess.PIPE, "text": True, "check": False}
        ended = subprocess.run(command_of(["export", str(tmp_path / "out"), "--files", str(tmp_path / "to")]), **options)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len([path for path in (tmp_path / "to").rglob("*") if path.is_file()]) == 200


@pytest.mark.parametrize(
    "words",
    [["export", "DIR", "--files", ""], ["export", "DIR", "--format", "wacz", "--to", ""], ["summary", "DIR", "--html", ""]],
)
def test_what_is_written_needs_a_name(crawled, words):
    """As of a variable that is not set: bodies were written to the directory in which the command stood."""
    ended = command(*(str(crawled) if word == "DIR" else word for word in words))
    assert (ended.returncode, ended.stdout) == (2, "") and "must not be empty" in ended.stderr
