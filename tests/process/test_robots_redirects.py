"""Where a robots.txt is redirected to."""

from support.daemons import daemon
from support.webs import Web, page, redirect, text


async def test_a_page_to_which_many_robots_txt_lead_is_visited_once(tmp_path):
    """Each of them cost a visit there, at that host's pace: the last of many domains of one parking page waited for hours."""
    parking = "127.0.9.1"

    def answer(host, path):
        if path == "/robots.txt" and host != parking:
            return redirect(web.url(parking, "/bought"))
        return text("User-agent: *\nDisallow: /no") if path == "/bought" else page()

    web = Web(default=answer)
    with web.running():
        async with daemon(tmp_path, robots=True) as told:
            for hosts in (["127.0.8.1"], [f"127.0.8.{n}" for n in range(2, 50)]):
                urls = [web.url(host, path) for host in hosts for path in ("/", "/no")]
                await told.ask("POST", "/v1/seeds", data="\n".join(urls), headers={"Content-Type": "text/plain"})
                await told.until(waiting=0, in_flight=0, done=2 if len(hosts) == 1 else 98)
            assert told.crawl.stats().outcomes == {"ok": 49, "robots_denied": 49}
    assert web.asked(parking) == {"/bought": 1}
