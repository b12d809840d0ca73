"""GET /v1/body: many clients at once take no more memory than is set aside for them."""

from __future__ import annotations

import asyncio
import random

import brotli
from support.daemons import daemon
from support.sinful import Site, head, running, stay

from crawler.core.content_coding import decoders_bytes
from crawler.service import api_streams

SMALL, LARGE = b"<p>hello", random.Random(1).randbytes(1 << 20) * 12


def coded(body: bytes) -> list[object]:
    packed = brotli.compress(body, quality=1, lgwin=24)
    return [head(len(packed), "Content-Encoding: br") + packed, stay]


async def test_the_windows_of_decoders_are_bounded_for_all_clients_together(tmp_path, monkeypatch) -> None:
    """24 bodies by brotli took 439 MiB under a limit of 256 MiB: 16 MiB each. Ordinary pages do not wait for them."""
    monkeypatch.setattr(api_streams, "DECODERS_BYTES", decoders_bytes(["br"]))
    with running(Site(scripts={"small": coded(SMALL), "large": coded(LARGE)})) as site:
        small, large = (f"http://127.0.0.1:{site.ports['http']}/sin/{name}" for name in ("small", "large"))
        async with daemon(tmp_path) as d:
            await d.ask("POST", "/v1/seeds", data=f"{small}\n{large}".encode())
            await d.until(done=2)
            decoders = d.control.follow._decoders

            async def read(url: str) -> bytes:
                async with d.session.get("/v1/body", params={"url": url}) as answer:
                    return await answer.read()

            async with d.session.get("/v1/body", params={"url": large}) as answer:
                while not decoders.used:
                    assert await answer.content.readany(), "it came without room for its decoder"
                second = asyncio.create_task(read(large))
                while not decoders.waiting_count:
                    assert not second.done()
                    await asyncio.sleep(0.01)
                assert await read(small) == SMALL
            assert await second == LARGE
            async with asyncio.timeout(60):
                while decoders.used:
                    await asyncio.sleep(0.01)


async def test_a_stack_of_codings_that_takes_more_is_given_out_as_it_is_kept(tmp_path) -> None:
    """The windows of all of them are held at the same time: of eight by brotli 150 MiB."""
    packed = SMALL
    for _ in range(3):
        packed = brotli.compress(packed)
    script = [head(len(packed), "Content-Encoding: br, br, br") + packed, stay]
    with running(Site(scripts={"stacked": script})) as site:
        url = f"http://127.0.0.1:{site.ports['http']}/sin/stacked"
        async with daemon(tmp_path) as d:
            await d.ask("POST", "/v1/seeds", data=url.encode())
            await d.until(done=1)
            assert (await d.ask("GET", "/v1/body", params={"url": url}))[0] == 422
            async with d.session.get("/v1/body", params={"url": url, "raw": "true"}) as answer:
                assert await answer.read() == packed
