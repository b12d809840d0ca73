"""What an operator copies from deploy/ is valid, hardened, and names only what exists."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from support import image

from crawler.config.load import load
from crawler.config.sections import Config
from crawler.core.errors import Exit
from crawler.crawl.metrics import Metrics, Readings
from crawler.crawl.planning import plan_of
from crawler.resources.memory_budget import Use

DEPLOY = Path(__file__).parent.parent / "deploy"
SYSTEMD = DEPLOY / "systemd"
SERVICES = sorted(SYSTEMD.glob("*.service"))
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "crawler.json"
EXPOSURE_MAX = 2.5
COMPOSE = ("docker-compose.yml", "cluster.yml")
MANIFESTS = ("crawler.yaml", "cluster.yaml")


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt install {'prometheus' if name == 'promtool' else 'systemd'})")
    return found


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


# -- systemd ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def units(tmp_path):
    """The units, with a program that exists here in place of /opt/crawler."""
    for path in SYSTEMD.iterdir():
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace("/opt/crawler/bin/crawler", "/bin/true"))
        assert path.suffix != ".service" or text.count("/opt/crawler/bin/crawler") == 1
    (tmp_path / "crawler.service.d").mkdir()
    (tmp_path / "token.conf").rename(tmp_path / "crawler.service.d" / "token.conf")
    return tmp_path


@pytest.mark.parametrize("name", ["crawler.service", "crawler@a.service", "crawler-run@a.service", "crawler-run@a.timer"])
def test_units_are_verified(units, name):
    assert run(tool("systemd-analyze"), "verify", "--man=no", units / name) == ""


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_services_are_confined(units, path):
    said = run(tool("systemd-analyze"), "security", "--offline=yes", units / path.name)
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", said)
    assert found and float(found[1]) < EXPOSURE_MAX, said


def settings(path):
    lines = [line for line in path.read_text().splitlines() if re.match(r"\w+=", line)]
    return dict(line.split("=", 1) for line in lines if not line.startswith(("SystemCallFilter", "Environment")))


def test_the_services_are_confined_alike():
    """Three copies of one list: this is what keeps them one."""
    confinements = {path.read_text().partition("# -- what it may use")[2].partition("[Install]")[0].strip() for path in SERVICES}
    assert len(SERVICES) == 3
    assert len(confinements) == 1


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_stop_waits_longer_than_the_grace(path):
    assert int(settings(path)["TimeoutStopSec"]) > Config().grace + 30


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_what_was_stopped_early_is_not_begun_again_at_once(path):
    assert int(settings(path)["SuccessExitStatus"]) == Exit.STOPPED


def test_the_user_can_be_made(tmp_path):
    said = run(tool("systemd-sysusers"), "--dry-run", SYSTEMD / "crawler.sysusers.conf")
    assert "crawler" in said or "crawler" in Path("/etc/passwd").read_text()


# -- Prometheus -------------------------------------------------------------------------------------------------------


def test_prometheus_takes_the_configuration_and_the_rules(tmp_path):
    promtool = tool("promtool")
    run(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    for path in RULES:
        run(promtool, "check", "rules", path)
    shutil.copytree(DEPLOY / "prometheus" / "rules", tmp_path / "rules")
    shutil.copy(DEPLOY / "compose" / "prometheus.yml", tmp_path)
    run(promtool, "check", "config", tmp_path / "prometheus.yml")


def test_each_alert_fires_when_it_should():
    run(tool("promtool"), "test", "rules", "alerts.test.yml", cwd=DEPLOY / "prometheus" / "tests")


def rules():
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def test_each_alert_is_tested_and_explained():
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    tests = yaml.safe_load((DEPLOY / "prometheus" / "tests" / "alerts.test.yml").read_text())["tests"]
    firing = {test["alertname"] for one in tests for test in one.get("alert_rule_test", ()) if test["exp_alerts"]}
    explained = set(re.findall(r"- \*\*(Crawler\w+)\*\*", (DEPLOY / "README.md").read_text()))
    assert alerts == firing == explained


# -- names ------------------------------------------------------------------------------------------------------------


def metrics():
    """Every name a query may use, with the labels and label values there are."""
    source = Readings(accounts={"store": Use(1, 1, 0)}, refused={"depth": 1})
    found = {}
    for line in generate_latest(Metrics(lambda: source).registry).decode().splitlines():
        if line.startswith("#"):
            continue
        name, labels = re.match(r"([\w:]+)(?:\{(.*)\})? ", line).groups()
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels or ""):
            found.setdefault(name, {}).setdefault(label, set()).add(value)
        found.setdefault(name, {})
    return found


def expressions():
    yield from ((rule.get("alert") or rule["record"], rule["expr"]) for rule in rules())
    dashboard = json.loads(DASHBOARD.read_text())
    yield from ((panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", ()))
    yield from ((note["name"], note["expr"]) for note in dashboard["annotations"]["list"])


def test_every_expression_names_metrics_and_label_values_that_exist():
    known = metrics()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    count = 0
    for title, text in expressions():
        selectors = re.findall(r"(?<![\w:])((?:instance:)?(?:crawler|process|python)_[\w:]+)(?:\{([^}]*)\})?", text)
        assert selectors or "up{" in text, title
        for name, matchers in selectors:
            count += 1
            assert name in known or name in recorded, f"{title}: there is no {name}"
            for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', matchers):
                if label not in ("job", "instance"):
                    values = known[name][label]
                    assert all(part in values for part in value.split("|")), f"{title}: {name}{{{label}{operator}{value}}}"
    assert count > 60


def test_every_expression_of_the_dashboard_can_be_evaluated(tmp_path):
    panels = json.loads(DASHBOARD.read_text())["panels"]
    texts = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    made = [
        {"record": f"panel:{n}", "expr": text.replace("$__rate_interval", "1m").replace("$instance", ".*")}
        for n, text in enumerate(texts)
    ]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": made}]}))
    run(tool("promtool"), "check", "rules", path)


def test_the_dashboard_shows_every_metric_of_ours_that_is_not_told_elsewhere():
    told = " ".join(text for _, text in expressions())
    ours = {name.removesuffix("_bucket") for name in metrics() if name.startswith("crawler_")}
    ours = {name for name in ours if not name.endswith(("_sum", "_count"))}
    assert {name for name in ours if name not in told} <= {"crawler_build_info"}


def test_the_dashboards_panels_stand_side_by_side():
    taken = set()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


# -- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_keeps_to_its_schema(name):
    pytest.importorskip("check_jsonschema")
    path = DEPLOY / "compose" / name
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def test_kubernetes_takes_the_manifests():
    validate = pytest.importorskip("kubernetes_validate")
    for manifest in (manifest for name in MANIFESTS for manifest in manifests(name)):
        validate.validate(manifest, validate.latest_version(), strict=True)


def manifests(name):
    yield from yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_pods_are_confined_and_their_stop_waits_longer_than_the_grace(name):
    pods = [manifest["spec"]["template"]["spec"] for manifest in manifests(name) if manifest["kind"] == "StatefulSet"]
    assert pods
    for pod in pods:
        assert pod["terminationGracePeriodSeconds"] > Config().grace + 30
        assert (
            pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"] and not pod["enableServiceLinks"]
        )
        (container,) = pod["containers"]
        confined = container["securityContext"]
        assert confined["readOnlyRootFilesystem"] and confined["capabilities"] == {"drop": ["ALL"]}
        assert not confined["allowPrivilegeEscalation"]
        volumes = {volume["name"] for volume in pod["volumes"]} | {"data"}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_settings_of_the_pods_are_settings(tmp_path, name):
    (settings,) = [manifest["data"]["crawler.toml"] for manifest in manifests(name) if manifest["kind"] == "ConfigMap"]
    (tmp_path / "token").write_text("secret")
    file = tmp_path / "crawler.toml"
    text = settings.replace("/etc/crawler-token/token", str(tmp_path / "token"))
    if "cluster" not in Config.fields:
        text = re.sub(r"^cluster = .*$", "", text, flags=re.M)
    file.write_text(text)
    assert load(environ={}, file=str(file)).config.listen == "0.0.0.0:9700"
    stored = re.sub(r"^# store =", "store =", text, flags=re.M)
    file.write_text(stored)
    assert load(environ={}, file=str(file)).config.store_url == ("s3://bucket/prefix" if stored != text else None)


def test_every_dependency_is_pinned_by_hash():
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cluster"], *project["optional-dependencies"]["s3"]]
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-").replace(".", "-") for line in wanted}
    for file, needed in (("constraints.txt", names), ("build-constraints.txt", {"build", "hatchling"})):
        blocks = re.split(r"\n(?=\S)", (DEPLOY / file).read_text().strip())
        pinned = {block.split("==")[0].lower().replace("_", "-").replace(".", "-"): "--hash=sha256:" in block for block in blocks}
        assert needed <= pinned.keys() and all(pinned.values()), file


def test_the_image_is_built_from_what_the_engine_gets_to_see(tmp_path):
    image.fill(tmp_path)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    named = [project["project"]["readme"], *wheel["packages"], *(hook["path"] for hook in wheel["hooks"].values())]
    scripts = re.findall(r"\bdeploy/[\w./-]+", (DEPLOY / "docker" / "build.sh").read_text().partition("set -eu")[2])
    assert [path for path in (*named, *scripts) if not (tmp_path / path).exists()] == []
    assert (tmp_path / "crawler" / "service" / "openapi.yaml").exists() and not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_names_files_that_exist_and_binds_to_loopback_only(name):
    compose = yaml.safe_load((DEPLOY / "compose" / name).read_text())
    for service in compose["services"].values():
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert set(service.get("secrets", ())) <= compose.get("secrets", {}).keys()
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / "compose" / source).exists(), source


def test_as_many_fetches_are_made_at_a_time_as_sizing_says():
    told = re.findall(r"^\| (\d+ [MG]iB) \| ([\d,]+)(?: at a time)? \| ([\d,]+) \|$", (DEPLOY / "sizing.md").read_text(), re.M)
    assert len(told) == 3
    for limit, *counts in told:
        settings = {"memory_limit": limit.replace(" ", ""), "workers": 100_000, "parsers": 1}  # as on two cores
        plans = [plan_of(load(settings | {"depth": depth}, environ={}).config) for depth in (0, 3)]
        assert [f"{plan.visits_max:,}" for plan in plans] == counts


def test_provisioning_is_yaml_and_finds_the_dashboard():
    provisioning = DEPLOY / "grafana" / "provisioning"
    provider = yaml.safe_load((provisioning / "dashboards" / "crawler.yml").read_text())["providers"][0]
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    mounts = yaml.safe_load((DEPLOY / "compose" / "docker-compose.yml").read_text())["services"]["grafana"]["volumes"]
    assert f"../grafana/dashboards:{provider['options']['path']}:ro" in mounts
    assert source["type"] == "prometheus"


def test_the_readme_says_how_each_file_was_checked():
    table = (DEPLOY / "README.md").read_text()
    files = [path.relative_to(DEPLOY) for path in DEPLOY.rglob("*") if path.is_file() and path.name != "README.md"]
    files = [path for path in files if path.parent.name != "__pycache__"]  # of the build step, once pip has run it
    assert [str(path) for path in files if f"`{path}`" not in table] == []
