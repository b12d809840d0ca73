"""The page at ``/`` in a browser: it is live, steers, asks nobody else, and can be used by everybody."""

import asyncio
from pathlib import Path

import pytest
from support.browser import CHROMIUM, browser
from support.daemons import daemon
from support.sinful import Site, head, running, stay

axe_core = pytest.importorskip("axe_core_python")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt install chromium)")]
AXE = Path(axe_core.__file__).with_name("axe.min.js")
TOKEN = "t0ken"
WIDTHS = (390, 1280, 1920)


async def test_the_page_in_a_browser(tmp_path):
    with running(Site(scripts={"gone": [head(0, status="404 Not Found"), stay]})) as site:
        async with daemon(tmp_path, api_token=TOKEN) as d, browser() as page:
            d.session.headers["Authorization"] = f"Bearer {TOKEN}"
            url = f"http://127.0.0.1:{d.port}/"
            await d.ask("POST", "/v1/exclusions", json={"exclude": ["/calendar/"], "block": ["trap.test"]})
            await logs_in(page, url)
            await is_live(d, page, site)
            await keeps_for_later(d, page)
            await steers(d, page)
            for scheme in ("light", "dark"):
                await page.scheme(scheme)
                for width in WIDTHS:
                    await page.size(width)
                    assert await page.run("document.documentElement.scrollWidth") <= width, "nothing sticks out"
                assert await violations(page) == [], scheme
            await page.go(url + "why?url=" + good(site, 1))
            await page.until("document.querySelector('pre').textContent.includes('settled as ok')")
            assert await violations(page) == []
            assert {asked.split("/")[2] for asked in page.asked if asked.startswith("http")} == {f"127.0.0.1:{d.port}"}
            assert not page.said, "nothing that the policy forbids was tried"


async def logs_in(page, url):
    await page.go(url)
    assert await page.run("!!document.getElementById('token') && !document.querySelector('[value=pause]')")
    assert await violations(page) == []
    page.said.clear()  # the browser tells of the status 401
    await page.run(f"document.getElementById('token').value = '{TOKEN}'; document.querySelector('button').click()")
    await page.until("!!document.getElementById('live-head')")


async def is_live(d, page, site):
    """What changes is shown, and the page stays the same."""
    await page.run("window.mark = 1")
    gone = f"http://127.0.0.1:{site.ports['http']}/sin/gone"
    await d.ask("POST", "/v1/seeds?list=mine&tag=t", data="\n".join([good(site, 1), good(site, 2), gone]).encode())
    await page.until("document.getElementById('live-overview').textContent.includes('3 of 3')")
    await page.until("document.getElementById('live-failures').textContent.includes('http_error')")
    assert await page.run("window.mark") == 1


async def keeps_for_later(d, page):
    """What changed where somebody was about to press a button is shown once they are not."""
    await page.do("Emulation.setFocusEmulationEnabled", enabled=True)
    await page.run("document.querySelector('#live-excluded button').focus()")
    await d.ask("POST", "/v1/exclusions", json={"exclude": ["/later/"]})
    shown = "document.getElementById('live-excluded').textContent.includes('/later/')"
    before = await page.run("document.getElementById('main').dataset.version")
    await page.until(f"document.getElementById('main').dataset.version > {before} + 1")
    assert not await page.run(shown)
    await page.run("document.activeElement.blur()")
    await page.until(shown)


async def steers(d, page):
    await page.run("document.querySelector('[value=pause]').click()")
    await page.until("!!document.querySelector('[value=resume]')")
    assert (await d.ask("GET", "/v1/status"))[1]["paused_by"] == ["user"]
    await page.run("const e = document.getElementById('exclude'); e.value = '/other/'; e.form.querySelector('button').click()")
    await page.until("document.getElementById('live-excluded').textContent.includes('/other/')")
    assert "/other/" in (await d.ask("GET", "/v1/exclusions"))[1]["exclude"]
    # somebody is about to press a button: it is not taken away
    await page.run("document.querySelector('[value=resume]').focus(); window.button = document.activeElement")
    await d.ask("POST", "/v1/resume")
    await page.until("document.getElementById('live-head').textContent.includes('running')")
    assert await page.run("document.activeElement === window.button")


async def violations(page) -> list:
    await page.run(AXE.read_text() + "; 0")
    found = await page.run("axe.run().then(result => result.violations.map(v => [v.id, v.nodes.map(n => n.html)]))")
    await asyncio.sleep(0)
    return found


def good(site, n):
    return f"http://127.0.0.1:{site.ports['http']}/good/{n}"
