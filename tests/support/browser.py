"""Headless Chromium, driven over its own protocol (CDP): what a page shows, what it asks for, what it logs."""

import asyncio
import base64
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One tab. ``asked`` are the URLs of all its requests, ``said`` what its console was told."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._waiting: dict[int, asyncio.Future] = {}
        self._last = 0
        self.asked: list[str] = []
        self.said: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            told = message.json()
            if "id" in told:
                self._waiting.pop(told["id"]).set_result(told)
            elif told["method"] == "Network.requestWillBeSent":
                self.asked.append(told["params"]["request"]["url"])
            elif told["method"] in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.said.append(str(told["params"]))

    async def do(self, method: str, **params: object) -> dict:
        self._last += 1
        answer = self._waiting[self._last] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._last, "method": method, "params": params})
        told = await answer
        assert "error" not in told, told
        return told["result"]

    async def run(self, script: str) -> object:
        """The value of an expression; a promise is waited for."""
        told = await self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, script: str) -> object:
        """The expression's value, as soon as it is true; pages may come and go meanwhile."""
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(AssertionError):
                    if value := await self.run(script):
                        return value
                await asyncio.sleep(0.05)

    async def go(self, url: str) -> None:
        await self.do("Page.navigate", url=url)
        await self.until(f"document.readyState == 'complete' && location.href.startsWith({url.split('?')[0]!r})")

    async def size(self, width: int, height: int = 900) -> None:
        await self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    async def scheme(self, name: str) -> None:
        """dark or light"""
        await self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    async def picture(self, path: Path) -> None:
        shot = await self.do("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    with tempfile.TemporaryDirectory() as profile:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
        arguments += [f"--user-data-dir={profile}", "--no-first-run", "about:blank"]
        pipes = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.PIPE}
        process = await asyncio.create_subprocess_exec(CHROMIUM, *arguments, **pipes, limit=1 << 20)
        try:
            port = 0
            async for line in process.stderr:
                if b"DevTools listening on" in line:
                    port = int(line.split(b":")[2].split(b"/")[0])
                    break
            draining = asyncio.create_task(process.stderr.read())
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    (tab,) = [tab for tab in await answer.json() if tab["type"] == "page"]
                async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    page = Page(socket)
                    listening = asyncio.create_task(page.listen())
                    for domain in ("Page", "Network", "Runtime", "Log"):
                        await page.do(f"{domain}.enable")
                    yield page
                    listening.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            await draining
            await asyncio.sleep(0)
