"""What a page costs, counted: no clock, so a busy machine changes little. ``tests/benchmarks/counts.py`` counts."""

import shutil
import subprocess

import counts
import pytest

CALLS_MAX = 440
"""Of Python functions in the main process, a page of a crawl with its twenty links: 368 to 411 in 18 runs. The slower the
machine, the fewer pages share a commit."""
PARSER_CALLS_MAX = 120
"""102 at any load."""
TRIES = 3

BUILDS = (
    shutil.which("gcc")
    and not subprocess.run(["gcc", "-E", "-include", "zlib.h", "-xc", "/dev/null"], capture_output=True).returncode
)


@pytest.mark.skipif(not BUILDS, reason="the synthetic web needs gcc and zlib")
@pytest.mark.timeout(600)
def test_a_page_takes_no_more_calls_than_it_did(monkeypatch, tmp_path):
    """Where this fails, ``python tests/benchmarks/run.py --quick`` says what is dearer: mend it, or say why in a commit that
    raises the bound."""
    monkeypatch.setenv("WEBFARM_BUILD", str(tmp_path))
    for _ in range(TRIES):
        found = counts.a_page("crawl")
        if found.calls <= CALLS_MAX:
            break
    assert 0 < found.calls <= CALLS_MAX
    assert 0 < found.parser_calls <= PARSER_CALLS_MAX
    assert found.connections <= counts.HOSTS * counts.PER_HOST, "a connection is used again"
