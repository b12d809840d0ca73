"""An archive as a reader replays it: for every capture, the response with its body, revisits resolved as the standard says."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from warcio.archiveiterator import ArchiveIterator


class Capture(NamedTuple):
    """``kind`` is response or revisit; ``status`` and ``mime`` are those of the response that a browser is sent."""

    kind: str
    url: str
    date: str
    status: str
    mime: str | None
    body: bytes
    payload_digest: str


def captures(directory: Path) -> list[Capture]:
    """In the order in which they were written. AssertionError: a revisit names no capture that there is."""
    found: list[Capture] = []
    by_place: dict[tuple[str, str], Capture] = {}
    for path in sorted((directory / "warc").iterdir()):
        with path.open("rb") as stream:
            for record in ArchiveIterator(stream, check_digests="raise"):
                fields, http = record.rec_headers, record.http_headers
                if record.rec_type not in ("response", "revisit"):
                    continue
                url, date, digest = (fields[f"WARC-{name}"] for name in ("Target-URI", "Date", "Payload-Digest"))
                if record.rec_type == "revisit":
                    of = by_place[fields["WARC-Refers-To-Target-URI"], fields["WARC-Refers-To-Date"]]
                    assert of.payload_digest == digest
                    status, mime = (of.status, of.mime) if http is None else _said(http)
                    body = of.body
                else:
                    (status, mime), body = _said(http), record.content_stream().read()
                capture = Capture(record.rec_type, url, date, status, mime, body, digest)
                found.append(capture)
                by_place.setdefault((url, date), capture)
    return found


def _said(http) -> tuple[str, str | None]:
    return http.get_statuscode(), http["Content-Type"]
