"""The architecture is a test: imports go strictly down the floors, and on one floor a part never imports another.

A new file in crawler/ fails this test until it is given its place below. A set is one part; it may have several files.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "crawler"

FLOORS: list[tuple[str, list[set[str]]]] = [
    ("words", [{"errors"}, {"surt"}, {"sniff"}, {"clock"}, {"checks"}, {"printable"}]),
    ("words", [{"urls"}, {"marked"}, {"decode"}, {"config"}]),
    ("words", [{"page"}, {"settings"}, {"effective"}]),
    ("words", [{"model"}]),
    (
        "rules",
        [
            {"scope"},
            {"links", "linkforms"},
            {"robots", "robotsmatch", "rulescache", "robotsdesk"},
            {"sitemaps", "sitemapforms"},
            {"guard"},
            {"seeds", "lists"},
            {"verdict"},
            {"hostrules"},
            {"tally"},
            {"marks"},
            {"outage"},
        ],
    ),
    (
        "parts",
        [
            {"frontier"},
            {"archive"},
            {"results", "final"},
            {"fetch"},
            {"parse", "parse_child", "parse_process"},
            {"metrics", "readings"},
            {"listener"},
            {"notify"},
            {"log"},
            {"budget", "plan", "cgroup", "watch"},
            {"directory"},
            {"lazily"},
        ],
    ),
    ("parts", [{"journal", "rows"}, {"reading"}, {"export"}]),
    ("crawl", [{"crawl", "trouble", "expand", "network", "memory", "snapshot", "retention"}]),
    ("doors", [{"progress"}, {"why"}]),
    ("doors", [{"control", "follow", "problems", "uploads", "diagnosis", "vitals", "changes"}]),
    ("doors", [{"daemon"}]),
    ("doors", [{"run", "serve"}]),
    ("doors", [{"arguments", "options"}, {"client"}, {"statuspage"}]),
    ("doors", [{"asking"}]),
    ("doors", [{"cli_run", "cli_control"}, {"cli_read"}]),
    ("doors", [{"cli"}]),
    ("doors", [{"__main__"}]),
]

PLACE = {
    module: (height, part) for height, (_, parts) in enumerate(FLOORS) for part, names in enumerate(parts) for module in names
}
FLOOR_OF = {module: name for name, parts in FLOORS for names in parts for module in names}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    """The file's name, or its folder's: a folder is one part."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(node: ast.AST) -> Iterator[str]:
    """Dotted names imported anywhere below, also inside functions, except for type checking only."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are written in full"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from imports(child)


def parts_imported(path: Path) -> set[str]:
    """Modules of this package that the file imports; ``from crawler import __version__`` is the package's name, not a part."""
    names = (name.split(".") for name in imports(ast.parse(path.read_text())))
    return {name[1] for name in names if name[0] == "crawler" and name[1:] != ["__version__"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_strictly_down(path):
    importer = module_of(path)
    assert importer in PLACE, f"give crawler/{path.relative_to(PACKAGE)} its floor in FLOORS"
    height, part = PLACE[importer]
    for imported in parts_imported(path):
        assert imported in PLACE, f"{importer} imports crawler.{imported}, which has no floor"
        below, other = PLACE[imported]
        assert below < height or (below, other) == (height, part), f"{importer} may not import {imported}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_words_and_rules_know_no_sessions_and_no_loop(path):
    if FLOOR_OF.get(module_of(path)) in ("words", "rules"):
        roots = {name.partition(".")[0] for name in imports(ast.parse(path.read_text()))}
        assert not roots & {"aiohttp", "asyncio", "aiodns", "rocksdict", "multiprocessing", "subprocess"}


def test_the_package_itself_imports_nothing_until_asked():
    """``import crawler.model`` must not cost the whole crawler."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        if not is_type_checking(node) and not isinstance(node, ast.FunctionDef):
            assert not [name for name in imports(ast.Module([node], [])) if name.startswith("crawler")]


def test_the_floors_would_notice(tmp_path):
    """An import inside a function counts, one for type checking does not."""
    path = tmp_path / "x.py"
    path.write_text(
        "from __future__ import annotations\nif TYPE_CHECKING:\n    from crawler.cli import main\n"
        "def f():\n    from crawler import daemon\n    import crawler.crawl\n    from crawler.fetch import Fetcher\n"
    )
    assert parts_imported(path) == {"daemon", "crawl", "fetch"}
