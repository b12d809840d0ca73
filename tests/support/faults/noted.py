"""``crawler``, saying in the log of faults.c what each commit acknowledged: a note after it returned, one JSON list of
(URL, when fetched) of what it settled. Nothing else is changed."""

import ctypes
import sys

import orjson

from crawler.cli import main
from crawler.frontier.rocksdb.store import RocksStore

commit = RocksStore.commit
note = ctypes.CDLL(None).faults_note


def noted(store: RocksStore, prepared, known, marks) -> None:
    commit(store, prepared, known, marks)
    note(orjson.dumps([[one.link.url, one.fetched_at] for one in known if one is not None]))


RocksStore.commit = noted
sys.exit(main.main(sys.argv[1:]))
