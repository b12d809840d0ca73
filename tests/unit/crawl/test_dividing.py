"""A crawl that goes on with another number of processes: its hosts move first, and a move that is cut off is ended."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rocksdict import Options, Rdict
from support.faults.log import Kind, read_log
from support.faults.powercut import Disk
from support.faults.shim import Faults
from support.paths import ROOT
from support.programs import CLEAN, LOCAL, command, crawler, rows_of
from support.webs import Answer, Web, page, redirect

from crawler.config.load import load
from crawler.config.sections import Config
from crawler.core.errors import ConfigError
from crawler.core.keys import divided
from crawler.core.model import Mark
from crawler.crawl.dividing import divided_for
from crawler.crawl.maintenance import empty_batch, open_stores
from crawler.crawl.reading import open_crawl_reader
from crawler.crawl.wiring import open_crawl
from crawler.frontier import Limits, dividing, open_store
from crawler.frontier.division import MOVING_NAME, Division, division_at, write
from crawler.frontier.recrawl import RecrawlOrder
from crawler.frontier.rocksdb.layout import FAMILIES
from crawler.frontier.rocksdb.moving import MovingStore
from crawler.frontier.store import Counts
from crawler.output import locked

SUPPORT = ROOT / "tests/support"
HOSTS = [f"127.0.9.{n}" for n in range(1, 31)]
PAGES = 300


def web_of() -> Web:
    """Pages of a tree over all hosts; every tenth redirects to the next page, every eleventh fails, and is retried at once."""
    web = Web()

    def answer(host: str, path: str) -> Answer:
        n = int(path[1:])
        if n % 10 == 7:
            return redirect(web.url(HOSTS[(n + 1) % 30], f"/{n + 1}"))
        if n % 11 == 5:
            return Answer(503, headers=(("Retry-After", "0"),))
        return page(*(web.url(HOSTS[m % 30], f"/{m}") for m in (3 * n, 3 * n + 1, 3 * n + 2) if m <= PAGES))

    web.default = answer
    return web


def command_of(web: Web, root: Path, *more: str) -> tuple[str, ...]:
    urls = [web.url(HOSTS[n % 30], f"/{n}") for n in (1, 2, 2, 3)]
    arguments = (*urls, "-o", str(root), "--depth", "9", "--scope", "any", "--parsers", "0", "--memory-limit", "2GiB")
    return ("run", *arguments, "--backoff-max", "10ms", "--host-failures", "99", *LOCAL, *more)


def seen(root: Path) -> tuple[Counts, dict[str, str], list[str]]:
    with open_crawl_reader(root) as reader:
        rows = [row["canonical"] for _, row in reader.rows()]
        return reader._store.stats(), {url: str(reader.lookup(url)) for url in URLS}, rows


def config_of(root: Path) -> Config:
    return load({"output": str(root), "depth": 9, "scope": "any"}, environ={}).config


URLS: list[str] = []


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Crawls that were stopped midway, by their number of processes: much waits, some of it between the parts."""
    web = web_of()
    with web.running():
        URLS[:] = [web.url(HOSTS[n % 30], f"/{n}") for n in range(1, PAGES)]
        found = {}
        for parts in (1, 3):
            root = tmp_path_factory.mktemp("begun") / str(parts)
            ended = crawler(*command_of(web, root, "--processes", str(parts), "--max-pages", "60"))
            assert ended.returncode == 5, ended.stderr
            found[parts] = root
        yield web, found


@pytest.mark.parametrize(("before", "numbers"), [(3, [1, 4]), pytest.param(1, [3, 2, 1], marks=pytest.mark.slow)])
def test_it_goes_on_with_any_number_and_ends_as_if_it_had_never_changed(begun, tmp_path, before, numbers):
    web, roots = begun
    root = tmp_path / "out"
    shutil.copytree(roots[before], root)
    config = config_of(root)
    for parts in numbers:
        was = seen(root)
        with locked(root):
            division = divided_for(config, root, parts)
        assert (division.parts if division is not None else 1) == parts
        counts, known, rows = seen(root)
        # what was on its way has come: more may be known, and listed lines that were known have their rows
        assert counts.done == was[0].done and counts.known >= was[0].known and set(was[2]) <= set(rows)
        assert {url for url, state in was[1].items() if state != "None"} <= {
            url for url, state in known.items() if state != "None"
        }
        assert crawler("verify", str(root)).returncode == 0
        ended = crawler(*command_of(web, root, "--processes", str(parts), "--max-pages", "20"))
        assert ended.returncode == 5, ended.stderr
    assert crawler(*command_of(web, root)).returncode == 0, "as it was divided last"
    once = Counter(row["canonical"] for row in rows_of(root) if row["reason"] != "duplicate")
    assert set(once.values()) == {1}
    alone = tmp_path / "alone"
    assert crawler(*command_of(web, alone)).returncode == 0
    assert once == Counter(row["canonical"] for row in rows_of(alone) if row["reason"] != "duplicate")
    finals = [
        sorted((row["input"]["line"], row["outcome"]) for row in rows_of(each) if row["final"] and row["input"])
        for each in (root, alone)
    ]
    assert finals[0] == finals[1]
    assert crawler("verify", str(root)).returncode == 0
    assert not (root / "lost+found").exists()


def test_a_whole_is_divided_without_copying(begun, tmp_path, caplog):
    """The parts share its tables: ten million URLs in seconds."""
    root = tmp_path / "out"
    shutil.copytree(begun[1][1], root)
    with locked(root), caplog.at_level("INFO"):
        divided_for(config_of(root), root, 4)
    assert ": 0 entries copied" in caplog.text


def test_what_was_ordered_is_fulfilled_before_hosts_move(begun, tmp_path):
    """An order to visit everything again is one store's; it comes true by the number of processes there was."""
    web, roots = begun
    root = tmp_path / "out"
    shutil.copytree(roots[3], root)
    before = seen(root)[0]
    with open_stores(root) as stores:
        for store in stores:
            store.order(RecrawlOrder(store.clock(), 9e12))
    with locked(root):
        divided_for(config_of(root), root, 2)
    counts = seen(root)[0]
    assert (counts.done, counts.retrying) == (0, before.retrying) and counts.waiting >= before.waiting + before.done > 0
    assert crawler(*command_of(web, root, "--processes", "2")).returncode == 0
    again = Counter(row["canonical"] for row in rows_of(root) if row["kind"] == "recrawl")
    assert len(again) == before.done and set(again.values()) == {1}


@pytest.mark.parametrize(
    ("before", "after", "stride"),
    [(3, 2, 9), *(pytest.param(*both, 1, marks=pytest.mark.slow) for both in ((1, 2), (3, 2), (2, 1)))],
)
@pytest.mark.timeout(600)
def test_cut_off_anywhere_it_is_gone_on_with(begun, tmp_path, before, after, stride):
    _, roots = begun
    start = roots[1]
    if before > 1:
        start = tmp_path / "start"
        shutil.copytree(roots[3], start)
        with locked(start):
            divided_for(config_of(start), start, before)
    command = [sys.executable, str(SUPPORT / "divided.py"), str(start), str(tmp_path), str(after), str(stride), *URLS]
    ended = subprocess.run(command, env=CLEAN, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    uncut, *cut = ended.stdout.splitlines()
    assert len(cut) * stride > 10
    assert [number for number, line in enumerate(cut, 1) if line != uncut] == []


DIVIDES = "import sys; from pathlib import Path; from divided import divide; divide(Path(sys.argv[1]), int(sys.argv[2]))"


def divides(root: Path, parts: int, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DIVIDES, str(root), str(parts)]
    return subprocess.run(command, env=CLEAN | (environment or {}), cwd=SUPPORT, capture_output=True, text=True, check=False)


def sent(root: Path) -> list[str]:
    """Files of what the parts have sent each other."""
    return [path.name for path in root.glob("exchange/*")]


def test_what_parts_have_sent_each_other_is_gone_or_the_division_is_not_over(begun, tmp_path):
    """A file that stayed was taken for one of the next division's, when that had written as many: exit 3 at every start."""
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    root = faults.folder / "out"
    shutil.copytree(begun[1][3], root)
    assert sent(root)
    faults.rules("unlink 1- EIO */exchange/*")
    ended = divides(root, 2, faults.environment)
    assert ended.returncode == 1 and "StorageError" in ended.stderr
    assert divides(root, 2).returncode == 0
    assert not sent(root) and division_at(root / "frontier").parts == 2


def test_after_a_power_cut_nothing_of_what_was_given_away_is_there_by_half(begun, tmp_path):
    """Names are safe once their folder was synced, and of others any may be: also a store's CURRENT when all else has gone."""
    faults = Faults(tmp_path / "disk", tmp_path / "aside")
    root = faults.folder / "out"
    shutil.copytree(begun[1][3], root)
    shutil.copytree(faults.folder, tmp_path / "before")
    assert divides(root, 2, faults.environment).returncode == 0
    records = read_log(faults.log)
    end = max(at for at, record in enumerate(records) if record.kind is Kind.UNLINK and record.path.endswith(MOVING_NAME))

    def after(cut: int, kept: Callable[[str], bool]) -> Path:
        """What is left if these of the names that were deleted, and not safely, are there again."""
        disk = Disk(faults.folder, tmp_path / "before", {"out", "synced"}).play(records[:cut])
        disk._names = [each for each in disk._names if each.new is not None or each.old is None or not kept(each.old[1])]
        disk.rebuild(left := tmp_path / f"left-{cut}")
        return left / "out"

    half = after(end, lambda name: name in ("CURRENT", "part-02"))
    ended = divides(half, 2)
    assert ended.returncode == 0, ended.stderr
    assert not sent(after(len(records), lambda name: True))


@pytest.mark.parametrize("parts", [1, 2])
def test_who_reads_while_totals_and_marks_are_taken_over_is_told_to_come_again(begun, tmp_path, parts):
    """Rows would be missing, and hosts that are still to be deleted would look like damage."""
    _, roots = begun
    root = tmp_path / "out"
    shutil.copytree(roots[3], root)
    rows = command("results", str(root)).stdout
    with locked(root):
        divided_for(config_of(root), root, parts)
        new = division_at(root / "frontier") or Division(1, divided(1), 0, by_domain=False, generation=9)
        write(root / "frontier" / MOVING_NAME, new)  # as it stands there until the very end
    for reading in ("results", "verify", "summary"):
        told = command(reading, str(root))
        assert (told.returncode, told.stdout) == (3, "") and "are being divided anew: ask again" in told.stderr
    with locked(root):
        divided_for(config_of(root), root, parts)
    assert sorted(command("results", str(root)).stdout.splitlines()) == sorted(rows.splitlines())


def test_hosts_of_a_domain_have_one_owner_from_the_beginning_or_never(begun, tmp_path):
    _, roots = begun
    by_domain = load({"output": "x", "politeness_by": "domain"}, environ={}).config
    for root, parts, said in (
        (roots[1], 2, "begun with one process"),
        (roots[3], 2, "begun with host"),
        (roots[3], 3, "begun with host"),
    ):
        with locked(root), pytest.raises(ConfigError, match=said):
            divided_for(by_domain, root, parts)
    with locked(tmp_path):
        assert divided_for(by_domain.replaced(output=str(tmp_path)), tmp_path, 2).by_domain
        with pytest.raises(ConfigError, match="two at least"):
            divided_for(by_domain, tmp_path, 1)


@pytest.mark.parametrize("families", [0, 3, len(FAMILIES)])
def test_a_store_whose_making_was_cut_off_is_divided_as_any_other(tmp_path, families):
    """Killed between the steps in which RocksDB makes it, or before it had the crawl's secret."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    (tmp_path / "frontier").mkdir()
    Rdict(str(tmp_path / "frontier"), options, {name: Options(raw_mode=True) for name in FAMILIES[:families]}).close()
    with locked(tmp_path):
        division = divided_for(config_of(tmp_path), tmp_path, 2)
    assert division.secret, "nobody may know it"
    with open_stores(tmp_path) as stores:
        assert len(list(stores)) == 2


def test_however_many_files_a_part_has_written_its_store_is_opened_as_often(tmp_path, monkeypatch):
    """Once for each file: of 20,000 files, which is some TiB, that took twenty minutes."""
    opened = []
    monkeypatch.setattr(dividing, "MovingStore", lambda path, *args: opened.append(path) or MovingStore(path, *args))
    counts = set()
    for files in (1, 30):
        root = tmp_path / str(files)
        for folder in ("warc", "index", "results"):
            (root / folder).mkdir(parents=True)
        marks = {f"results/p01-results-{number:06}.jsonl": Mark(1, closed=True) for number in range(files)}
        for file in marks:
            (root / file).write_text("\n")
        with locked(root):
            store = open_store("embedded", root / "frontier", Limits(), now=0.0, rest=lambda host: 0.0)
            store.commit(store.prepare(empty_batch(store)), [], marks)
            store.close()
            opened.clear()
            divided_for(config_of(root), root, 3)
        counts.add(len(opened))
        with open_stores(root) as stores:
            assert [store.marks() for store in stores] == [{}, marks, {}]
    assert len(counts) == 1


def test_nothing_is_written_where_there_is_one_process(tmp_path):
    with locked(tmp_path):
        assert divided_for(config_of(tmp_path), tmp_path, 1) is None
    assert not (tmp_path / "frontier").exists()


async def test_a_divided_crawl_is_not_made_whole_unasked(begun, tmp_path):
    _, roots = begun
    root = tmp_path / "out"
    shutil.copytree(roots[3], root)
    with pytest.raises(ConfigError, match="3 processes share this crawl"):
        async with open_crawl(config_of(root)):
            pass
    assert len(list((root / "frontier").glob("part-*"))) == 3
