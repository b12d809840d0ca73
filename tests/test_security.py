"""SECURITY.md is tested: its tests exist, its settings exist, and each limit's misdeeds end with the reason it names."""

import ast
import re
from pathlib import Path

import pytest
from support.hostile import ALL

from crawler.config.sections import Config
from crawler.core.errors import OUTCOME_OF

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text()


def table(title: str) -> list[list[str]]:
    """Its rows, but for the header."""
    section = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line.startswith("| ")]
    return rows[1:]


def named_in(cell: str) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", cell)


@pytest.mark.parametrize("row", table("Threats"), ids=lambda row: row[0][:40])
def test_every_threat_has_its_promise_its_place_and_its_tests(row):
    threat, promise, place, tests = row
    assert threat and promise and place and named_in(tests), row
    for module in re.findall(r"`([\w/]+\.py)`", place):
        assert (ROOT / "crawler" / module).is_file(), module


@pytest.mark.parametrize("row", table("Limits"), ids=lambda row: row[0][:40])
def test_every_limit_is_a_setting_with_a_reason_and_a_test(row):
    _, setting, reason, broken_by = row
    assert setting.strip("`") in Config.fields or setting == "no setting"
    assert not reason.startswith("`") or reason.strip("`") in OUTCOME_OF
    if named_in(broken_by):
        return
    for name in broken_by.replace("`", "").split():
        reasons = ALL[name].reason
        assert reason.strip("`") in (reasons if isinstance(reasons, tuple) else (reasons,)), name


def functions_of(source):
    return {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_is_named_exists():
    named = named_in(TEXT)
    assert len(named) > 30
    functions = {file: functions_of((ROOT / file).read_text()) for file in {file for file, _ in named}}
    for file, name in named:
        assert name in functions[file], f"{file} has no {name}"
