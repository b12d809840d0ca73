"""The command line as a person or a script meets it: two streams and exit codes."""

import fcntl
import http.server
import json
import os
import re
import subprocess
import sys
import threading

import pytest
from support.programs import CLEAN, LOCAL, command, command_of, crawler, on_a_terminal
from support.webs import Answer, Web

from crawler.cli import run_command
from crawler.cli.arguments import CommandParser
from crawler.cli.main import COMMANDS, main
from crawler.config import render
from crawler.config.sections import Config
from crawler.core import meant
from crawler.core.version import IDENTITY, __version__


def test_the_version_is_one_line_of_data():
    ended = crawler("--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"flatcrawler {__version__}\n", "")


def test_help_begins_with_examples_and_names_every_command():
    ended = command("--help")
    assert ended.returncode == 0 and ended.stderr == ""
    assert "    crawler run -i urls.txt" in ended.stdout.splitlines()[1]
    for name in COMMANDS:
        assert f"\n  {name} " in ended.stdout


def test_without_a_command_the_help_is_talk_and_the_usage_is_wrong():
    ended = crawler()
    assert ended.returncode == 2 and ended.stdout == "" and "crawler run -i urls.txt" in ended.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_examples_first(name):
    ended = command(name, "--help", environ={"COLUMNS": "120"})
    assert ended.returncode == 0 and ended.stderr == ""
    assert ended.stdout.startswith(f"usage: crawler {name}")
    assert "examples:" in ended.stdout.partition("options:")[0]


@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    prose = "Prose that is longer than forty columns is wrapped."
    examples = f"{prose}\n\nexamples:\n  crawler x out/                     does this\n  crawler y"
    parser = CommandParser("x", "x DIR", examples)
    parser.add_argument("--outcome", help="which is explained in a sentence of more than forty columns")
    lines = parser.format_help().splitlines()
    assert max(map(len, lines)) <= columns
    assert ("  crawler x out/                     does this" in lines) == (columns == 80)
    assert "  crawler y" in lines


def test_an_interrupt_while_a_crawl_opens_or_closes_is_an_early_stop(monkeypatch, tmp_path):
    def interrupted(_crawl):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_command, "in_a_loop", interrupted)
    assert main(["run", "http://127.0.0.1:1/", "-o", str(tmp_path)]) == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["confg"], "did you mean config?"),
        (["-i", "urls.txt"], "did you mean crawler run?"),
        (["config", "shwo"], "invalid choice"),
        (["config", "show", "--wrkers", "5"], "did you mean --workers?"),
        (["config", "show", "--work", "5"], "--workers"),
        (["run", "https://a.example/", "-o", "out/", "--max-depth", "2"], "did you mean --depth?"),
        (["run", "https://a.example/", "-o", "out/", "--mime=application/pdf"], "did you mean --accept-mime?"),
        (["crawl", "https://a.example/"], "did you mean run?"),
        (["config", "show", "--metrics", "3"], "did you mean --metrics-listen?"),
        (["why", "http://a.example/", "out/"], "out/ is one name too many: a directory is named by --data"),
        (["summary", "out/", "more/"], "more/ is one name too many (see"),
        (["status", "out/"], "out/ is one name too many: it asks a daemon; crawler summary tells of a directory"),
        (["config", "show", "--workers"], "expected one argument"),
        (["config", "show", "--exclude", "-old"], "begins with a dash is joined to its option by ="),
    ],
)
def test_a_mistyped_command_line_is_a_usage_error(arguments, said):
    ended = command(*arguments)
    assert ended.returncode == 2 and ended.stdout == "" and said in ended.stderr
    assert len(ended.stderr.splitlines()) <= 3


def test_what_other_crawlers_call_a_setting_or_a_command_leads_to_one_that_exists():
    names = {key.replace("_", "-") for key in Config.fields} | set(COMMANDS)
    assert set(meant._ELSEWHERE.values()) <= names and names.isdisjoint(meant._ELSEWHERE)
    assert meant.did_you_mean("max_depth", Config.fields) == "; did you mean depth?"
    known = ["CRAWLER_MIN_RATE", "CRAWLER_BANDWIDTH"]
    assert meant.did_you_mean("CRAWLER_LIMIT_RATE", known) == "; did you mean CRAWLER_BANDWIDTH?"
    assert meant.did_you_mean("--max-depth", ["--data", "--json"], "!") == "!", "no such setting here"


@pytest.mark.parametrize(("arguments", "environ"), [(["--tag", "x"], {}), ([], {"CRAWLER_TAG": "x"})])
def test_what_names_begin_with_makes_no_two_of_them_alike(arguments, environ):
    ended = command("run", "http://127.0.0.1:1/", "-o", "out", *arguments, environ=environ)
    assert ended.returncode == 2 and "there is no" in ended.stderr and "did you mean" not in ended.stderr


def test_help_on_help_is_the_help():
    assert command("help", "--help").stdout == command("--help").stdout != ""


def test_without_the_client_of_the_database_a_cluster_says_what_to_install():
    program = "import sys\nsys.modules['psycopg'] = None\nfrom crawler.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", program, "cluster", "status", "postgresql://127.0.0.1:1/none?schema=none"]
    ended = subprocess.run(words, env=CLEAN, capture_output=True, text=True)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1 and "pip install 'flatcrawler[cluster]'" in ended.stderr


def imported_by(*arguments: str) -> set[str]:
    """The modules that a command has imported when it ends well."""
    program = (
        "import sys\nfrom crawler.cli.main import main\n"
        f"try: code = main({list(arguments)!r})\nexcept SystemExit as end: code = end.code\n"
        "print(*sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", program], env=CLEAN, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stderr.splitlines()[-1].split())


def test_version_and_help_import_nothing_heavy():
    heavy = {"aiohttp", "asyncio", "rocksdict", "rich", "msgspec"}
    assert not imported_by("--version") & heavy
    assert not imported_by("--help") & heavy
    assert not imported_by("config", "--help") & heavy


def test_a_list_imports_only_what_it_uses(health, tmp_path):
    """One page by http from an address: no name is looked up, nothing parsed, scraped, limited or read from a file."""
    used = {"aiohttp", "rocksdict", "crawler.fetch.connector", "crawler.output.archive.warc"}
    names = {"aiodns", "pycares"}
    documents = {"turbohtml", "crawler.parse.pool", "crawler.parse.sitemap", "xml.etree", "crawler.policy.robots_gate"}
    others = {"prometheus_client", "aiohttp.web", "importlib.metadata", "rich", "tomllib", "difflib"}
    others |= {"crawler.frontier.memory", "crawler.service.serve", "crawler.service.listener"}
    imported = imported_by(
        "run", f"http://{health}/livez", "-o", str(tmp_path / "out"), "--allow-net", "127.0.0.0/8", "--no-robots"
    )
    assert used <= imported
    assert sorted(imported & (names | documents | others)) == []


def test_config_show_says_what_is_in_effect_and_where_it_came_from(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("per_host = 3\n")
    ended = command("config", "show", "-c", str(file), "-w", "7", environ={"CRAWLER_DELAY": "2s"})
    assert ended.returncode == 0
    assert "workers = 7  # from --workers\n" in ended.stdout
    assert 'delay = "2s"  # from CRAWLER_DELAY\n' in ended.stdout
    assert f"per_host = 3  # from {file}: per_host\n" in ended.stdout


def test_what_config_shows_is_utf_8_in_every_locale():
    environ = {"PYTHONIOENCODING": "ascii"}
    shown = crawler("config", "show", "--description", "Grüße", environ=environ, encoding="utf-8")
    assert (shown.returncode, 'description = "Grüße"' in shown.stdout) == (0, True), shown


def test_config_show_masks_secrets():
    ended = command("config", "show", environ={"CRAWLER_API_TOKEN": "hunter2", "CRAWLER_PROXY": "http://u:hunter2@p.example:1"})
    assert ended.returncode == 0 and "hunter2" not in ended.stdout + ended.stderr


def test_config_show_example_is_the_shipped_file():
    assert command("config", "show", "--example").stdout == render.example()


def test_config_show_memory_divides_the_limit_or_says_what_would_do():
    ended = command("config", "show", "--memory", "--memory-limit", "512MiB")
    assert ended.returncode == 0 and "store" in ended.stdout and "512" in ended.stdout
    ended = command("config", "show", "--memory", "--memory-limit", "32MiB")
    assert ended.returncode == 2 and ended.stdout == "" and "memory_limit" in ended.stderr.replace("-", "_")


def test_config_check_tells_every_fault_on_standard_error(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("per_host = 0\nworker = 3\nscope = 'all'\n")
    ended = command("config", "check", str(file))
    assert ended.returncode == 2 and ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 3 and "Traceback" not in ended.stderr
    file.write_text("per_host = 2\n")
    ended = command("config", "check", str(file))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", f"crawler: {file}: no faults\n")


@pytest.mark.parametrize("more", ["", "processes = 4\ndepth = 2\n"], ids=["one process", "four"])
def test_config_check_refuses_a_memory_limit_that_a_start_would_refuse(tmp_path, more):
    file = tmp_path / "crawler.toml"
    file.write_text(f'memory_limit = "120MiB"\ndelay = "x"\n{more}')
    ended = command("config", "check", str(file), environ={"CRAWLER_MEMORY_LIMIT": ""})
    assert ended.returncode == 2 and "the smallest memory_limit for" in ended.stderr and "delay 'x'" in ended.stderr
    file.write_text(f'memory_limit = "1GiB"\n{more}')
    assert command("config", "check", str(file), environ={"CRAWLER_MEMORY_LIMIT": ""}).returncode == 0


def test_a_database_that_is_away_begins_no_directory_and_sets_no_crawl_aside(tmp_path):
    pytest.importorskip("psycopg")
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "frontier").mkdir(parents=True)
    words = ("run", "http://127.0.0.1:1/", *LOCAL, "--cluster", "postgresql://x@127.0.0.1:1/none?schema=none")
    assert command(*words, "-o", str(old), "--fresh").returncode == command(*words, "-o", str(new)).returncode == 3
    assert [path.name for path in old.iterdir()] == ["frontier"] and not new.exists()


def test_config_check_says_no_faults_of_no_file_that_it_has_not_read(tmp_path):
    """Of one that an unset variable should have named, and of the first of two."""
    file = tmp_path / "crawler.toml"
    file.write_text("wrokers = 1\n")
    for words, said in (([""], "must not be empty"), ([os.devnull, "-c", str(file)], "two files")):
        ended = command("config", "check", *words)
        assert (ended.returncode, said in ended.stderr) == (2, True), ended.stderr


def test_config_schema_is_json():
    assert set(json.loads(command("config", "schema").stdout)["properties"]) == set(Config.fields)


def test_every_setting_but_the_host_tables_is_a_flag():
    flags = set(re.findall(r"--([a-z-]+)", command("config", "--help").stdout))
    assert {key.replace("_", "-") for key in Config.fields} - flags == {"urls", "host"}


@pytest.mark.parametrize("words", [("config", "schema"), ("--version",), ("retire", "--help"), ("run", "--help")])
def test_a_full_disk_behind_the_output_is_told(words):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "crawler", *words], env=CLEAN, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (3, "crawler: the output: No space left on device\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_pipe_that_takes_the_output_in_pieces_gets_all_of_it(unbuffered):
    """Whoever shares it may have made it non-blocking."""
    expected = command("config", "schema").stdout
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    environ = CLEAN | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command_of(("config", "schema")), env=environ, stdout=writer) as process, open(reader) as pipe:
        os.close(writer)
        assert pipe.read() == expected
    assert process.returncode == 0


def test_a_closed_pipe_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    ended = crawler("config", "show", "--example", capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)], ids=str)
def test_streams_that_were_closed_before_it_began_are_no_error(closed, tmp_path):
    """Some who start programs close them. A crawl's own files must not get their numbers."""
    with Web({"127.0.0.1": {"/": Answer(body=b"x")}}).running() as web:
        words = ("run", web.url("127.0.0.1"), "-o", str(tmp_path / "out"), *LOCAL, "--json")
        ended = crawler(*words, preexec_fn=lambda: [os.close(number) for number in closed])
    assert ended.returncode == 0, ended.stderr
    assert command("verify", str(tmp_path / "out")).returncode == 0
    ended = crawler("results", str(tmp_path / "out"), preexec_fn=lambda: [os.close(number) for number in closed])
    assert ended.returncode == 0, ended.stderr


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/readyz" and self.server.is_strange:
            self.send_error(404)
            return
        self.send_response(200 if self.path == "/livez" else 503)
        if not self.server.is_strange:
            self.send_header(IDENTITY, "v1")
        self.end_headers()
        self.wfile.write(b"not ready: draining\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def health(request):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        server.is_strange = getattr(request, "param", "") == "strange"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_healthcheck_asks_the_running_crawler(health):
    assert command("healthcheck", "--listen", health).returncode == 0
    assert command("healthcheck", environ={"CRAWLER_METRICS_LISTEN": health}).returncode == 0
    ended = command("healthcheck", "--ready", "--listen", health)
    assert ended.returncode == 1 and "503 not ready: draining" in ended.stderr and ended.stdout == ""


@pytest.mark.parametrize("health", ["strange"], indirect=True)
def test_healthcheck_does_not_take_another_server_for_a_crawler_that_is_well(health):
    for words, status in (([], "/livez: 200"), (["--ready"], "/readyz: 404")):
        ended = command("healthcheck", *words, "--listen", health)
        assert ended.returncode == 1 and ended.stderr.count("\n") == 1, ended
        assert f"{health}{status}, of another server" in ended.stderr


def test_healthcheck_fails_where_nothing_answers():
    ended = command("healthcheck", "--listen", "127.0.0.1:1")
    assert ended.returncode == 1 and "no response" in ended.stderr


def test_no_colour_is_honoured_on_a_terminal():
    code, drawn = on_a_terminal("config", "--help", environ={"NO_COLOR": "1"})
    assert code == 0 and "\x1b[" not in drawn


@pytest.mark.parametrize("way", ["flag", "environment", "file"])
def test_what_is_allowed_but_risky_is_found_by_the_check_and_is_no_fault(tmp_path, way):
    (tmp_path / "crawler.toml").write_text('user_agent = "AcmeBot/2.0"\ninsecure = true\n')
    words, environ = {
        "flag": (["--user-agent", "AcmeBot/2.0", "--insecure"], {}),
        "environment": ([], {"CRAWLER_USER_AGENT": "AcmeBot/2.0", "CRAWLER_INSECURE": "true"}),
        "file": ([str(tmp_path / "crawler.toml")], {}),
    }[way]
    ended = command("config", "check", *words, environ=environ)
    assert ended.returncode == 0 and ended.stderr.endswith("no faults, 2 warnings\n"), ended
    assert "warning: user_agent does not contain the name flatcrawler" in ended.stderr
    assert "warning: TLS certificates are not verified" in ended.stderr


def test_what_cannot_be_said_changes_no_exit_code(tmp_path):
    """Standard error may lead to a disk that is full."""
    with Web({"127.0.0.1": {"/": Answer()}}).running() as web:
        assert crawler("run", web.url("127.0.0.1"), "-o", str(tmp_path / "out"), *LOCAL).returncode == 0
    for expected in (0, crawler("verify", str(tmp_path / "none")).returncode):
        root = tmp_path / ("none" if expected else "out")
        with open("/dev/full", "w") as full:
            ended = subprocess.run(command_of(("verify", str(root))), env=CLEAN, stderr=full, timeout=60, check=False)
        assert ended.returncode == expected


@pytest.mark.parametrize("words", [(), ("run", "--such"), ("help", "such")], ids=str)
def test_a_mistyped_command_line_is_one_though_nobody_can_be_told(words):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command_of(words), env=CLEAN, stderr=full, timeout=60, check=False)
    assert ended.returncode == 2


def test_an_exit_code_says_how_it_ended_though_nobody_reads_the_output(tmp_path):
    """As in ``crawler run … --json | true``, by pipefail."""
    root = tmp_path / "out"
    reader, writer = os.pipe()
    os.close(reader)
    streams = {"capture_output": False, "stdout": writer, "stderr": subprocess.PIPE}
    ended = crawler("run", "http://127.0.0.1:1/", "-o", str(root), *LOCAL, "--retries", "0", "--json", **streams)
    assert ended.returncode == 4, ended
    with (root / "crawl.toml").open("a") as file:
        file.write("[")
    ended = crawler("verify", str(root), **streams)
    os.close(writer)
    assert (ended.returncode, ended.stderr.endswith(": 1 fault\n")) == (3, True), ended
