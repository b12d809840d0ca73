"""The architecture is a test: imports go strictly down the floors, and on one floor no folder imports another.

A file belongs to its folder, so a new file needs no entry here.
"""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGE = ROOT / "crawler"

FLOORS = [
    {"core"},
    {"config"},
    {"policy", "parse", "fetch", "frontier", "output", "resources"},
    {"crawl"},
    {"service"},
    {"cli"},
]
"""From the ground up."""

PURE = [
    "core/*",
    "policy/*",
    "parse/html.py",
    "parse/microsyntax.py",
    "parse/sitemap*.py",
    "parse/seed*.py",
    "frontier/workbench.py",
    "frontier/admission.py",
    "resources/outage_detector.py",
]
"""Files that decide, or read a document, without a loop, a socket, a store or a process."""

BEHIND = {"frontier": {"memory", "memory_queues", "rocksdb"}, "output/archive": {"warc", "files", "discard"}}
"""Implementations behind a seam, by the folder that has it."""

IMPURE_MODULES = {"asyncio", "aiohttp", "aiodns", "rocksdict", "multiprocessing", "subprocess"}

ENTRIES_MAX = 13
FILE_LINES_MAX = 500

FLOOR_OF = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


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


def folders_imported(path: Path) -> set[str]:
    """Folders of this package that the file imports from."""
    names = (name.split(".") for name in imports(ast.parse(path.read_text())))
    return {name[1] for name in names if name[0] == "crawler"}


def exports(path: Path) -> set[str]:
    """The names of ``__all__``."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_strictly_down(path):
    own = path.relative_to(PACKAGE).parts[0]
    for folder in folders_imported(path) - {own}:
        assert folder in FLOOR_OF, f"{name_of(path)} imports crawler.{folder}: nobody imports the package itself"
        assert FLOOR_OF[folder] < FLOOR_OF[own], f"{name_of(path)} imports {folder}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_pure_files_know_no_loop_and_no_socket(path):
    if any(fnmatch(name_of(path), pattern) for pattern in PURE):
        assert not {name.partition(".")[0] for name in imports(ast.parse(path.read_text()))} & IMPURE_MODULES


def test_the_top_is_folders_alone():
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "py.typed"}
    assert entries == {"__init__.py", "__main__.py", *FLOOR_OF}
    assert len(entries) <= ENTRIES_MAX


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_archive_knows_its_kinds(path):
    """Where files of each kind lie is asked of ``crawler.output.archive``, never told by a name."""
    if not name_of(path).startswith("output/archive/"):
        texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not [text for text in texts if isinstance(text, str) and text.startswith(("warc/", "files/"))]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_what_is_behind_a_seam_is_known_to_its_own_folder_only(path):
    """Stores and archives are used through their Protocol and opened by their table."""
    folder = name_of(path.parent)
    for name in imports(ast.parse(path.read_text())):
        for seam, hidden in BEHIND.items():
            module = name.removeprefix(f"crawler.{seam.replace('/', '.')}.").partition(".")[0]
            if name.startswith(f"crawler.{seam.replace('/', '.')}.") and module in hidden:
                assert folder.startswith(seam), f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__init__.py"], ids=name_of)
def test_a_file_imports_its_siblings_and_never_its_own_package(path):
    package = path.parent.relative_to(PACKAGE.parent).as_posix().replace("/", ".")
    there = {entry.stem for entry in path.parent.iterdir()}
    for name in imports(ast.parse(path.read_text())):
        if name.startswith(f"{package}."):
            assert name.removeprefix(f"{package}.").partition(".")[0] in there, f"{name_of(path)} imports {name}"


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=name_of)
def test_no_package_exports_a_name_that_one_of_its_files_bears(path):
    assert not exports(path) & {file.stem for file in path.parent.glob("*.py")}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_too_long(path):
    assert len(path.read_text().splitlines()) <= FILE_LINES_MAX


def test_the_package_itself_imports_nothing_until_asked():
    """``import crawler.core.model`` must not cost the whole crawler."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text()).body:
        if not is_type_checking(node) and not isinstance(node, ast.FunctionDef):
            assert not [name for name in imports(ast.Module([node], [])) if name.startswith("crawler")]


def test_the_floors_would_notice(tmp_path):
    """An import inside a function counts, one for type checking does not."""
    path = tmp_path / "x.py"
    path.write_text(
        "from __future__ import annotations\nif TYPE_CHECKING:\n    from crawler.cli.main import main\n"
        "def f():\n    from crawler.crawl import wiring\n    import crawler.core.model\n    from crawler.fetch import Fetcher\n"
    )
    assert folders_imported(path) == {"crawl", "core", "fetch"}


@pytest.mark.parametrize(
    "folder",
    ["crawl", "fetch", "frontier", "frontier/cluster", "frontier/rocksdb", "output", "parse", "service", "service/parts"],
)
def test_the_first_words_of_a_large_folder_name_every_file_in_it(folder):
    words = set(re.findall(r"\w+", ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text()))))
    assert {path.stem for path in (PACKAGE / folder).glob("*.py")} - {"__init__"} <= words
