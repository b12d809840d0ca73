"""Prometheus itself scrapes a running crawler, and its rules fire when the crawl is made to stall. A minute is a second here."""

import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.request

import pytest
from support.daemons import served
from support.paths import ROOT
from support.programs import port_of_its_own
from support.sinful import Site, running

RULES = ROOT / "deploy" / "prometheus" / "rules"
CONFIG = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [rules/*.yml]
scrape_configs:
  - job_name: crawler
    static_configs: [targets: ["127.0.0.1:{port}"]]
"""


def hurried(rules):
    """The rules with minutes as seconds, but no range shorter than a few scrapes."""
    shorter = re.sub(r"for: (\d+)m", r"for: \1s", rules)
    return re.sub(r"\[(\d+)([mh])\]", lambda found: f"[{max(4, int(found[1]) * (60 if found[2] == 'h' else 1))}s]", shorter)


@contextlib.contextmanager
def prometheus(tmp_path, target):
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("Prometheus is not installed (Debian: apt install prometheus)")
    (tmp_path / "rules").mkdir()
    for path in RULES.glob("*.yml"):
        (tmp_path / "rules" / path.name).write_text(hurried(path.read_text()))
    (tmp_path / "prometheus.yml").write_text(CONFIG.format(port=target))
    address = f"127.0.0.1:{port_of_its_own()}"
    command = [binary, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    log = (tmp_path / "log").open("w")
    with log, subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log) as process:

        def ask(path):
            with urllib.request.urlopen(f"http://{address}/api/v1/{path}", timeout=10) as answer:
                return json.loads(answer.read())["data"]

        try:
            yield ask
        finally:
            process.kill()


def until(what):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if found := what():
                return found
        time.sleep(0.2)
    raise AssertionError("it never came to that")


@pytest.mark.slow
def test_prometheus_scrapes_it_and_alerts_when_it_stalls(tmp_path):
    port = port_of_its_own()
    with (
        running(Site(scripts={})) as site,
        served(tmp_path / "d", "--metrics-listen", f"127.0.0.1:{port}") as daemon,
        prometheus(tmp_path, port) as ask,
    ):

        def value(query):
            found = ask(f"query?query={urllib.request.quote(query)}")["result"]
            return float(found[0]["value"][1]) if found else None

        def firing():
            return {one["labels"]["alertname"] for one in ask("alerts")["alerts"] if one["state"] == "firing"}

        daemon.ask("PATCH", "/v1/settings", b'{"delay": 0.05}', {"Content-Type": "application/json"})
        urls = [f"http://127.0.0.1:{site.ports['http']}/good/{n}" for n in range(5000)]
        daemon.ask("POST", "/v1/seeds", "\n".join(urls).encode())
        until(lambda: (value("instance:crawler_fetches:rate5m") or 0) > 1)
        assert value('crawler_state{state="running"}') == 1
        assert value("instance:crawler_memory_used:ratio") > 0
        assert not firing() & {"CrawlerDown", "CrawlerFetchesNothing", "CrawlerManyFailures", "CrawlerCommitsLate"}

        daemon.ask("PATCH", "/v1/settings", b'{"min_free_disk": "9000TiB"}', {"Content-Type": "application/json"})
        until(lambda: "CrawlerFetchesNothing" in firing())
        assert value('crawler_workers{state="disk"}') > 0

        daemon.ask("PATCH", "/v1/settings", b'{"min_free_disk": 0}', {"Content-Type": "application/json"})
        until(lambda: "CrawlerFetchesNothing" not in firing())
        daemon.process.kill()
        until(lambda: "CrawlerDown" in firing())
