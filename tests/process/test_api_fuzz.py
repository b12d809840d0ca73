"""The control API against its own description: whatever the description allows or forbids, the answer keeps to it."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.daemons import served

from crawler.service import api

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")


@schemathesis.serializer("application/gzip", "application/x-ndjson")
def as_bytes(context, value):
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


SCHEMA = schemathesis.openapi.from_path(Path(api.__file__).parent / "openapi.yaml")
EXAMPLES = 25


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with served(tmp_path_factory.mktemp("fuzzed") / "d", "--dns", "127.0.0.1:1", "--dns-timeout", "0.1") as daemon:
        daemon.ask("POST", "/v1/pause")
        yield daemon


@SCHEMA.exclude(path="/v1/drain").parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_keep_to_the_description(case, daemon):
    for name in ("wait", "seconds"):  # these only cost time
        if case.query and str(case.query.get(name, "")).isdigit():
            case.query[name] = 0
    # no schema says which texts are URLs, cursors given out, or settings; and no upload is of the wrong type: lines are told
    excluded = [checks.positive_data_acceptance]
    if case.path == "/v1/seeds":
        excluded.append(checks.negative_data_rejection)
    case.call_and_validate(base_url=f"http://{daemon.listen}", excluded_checks=excluded)


def test_it_is_still_well(daemon):
    assert daemon.process.poll() is None
    assert daemon.ask("GET", "/v1/status")["state"] in ("paused", "running")
