"""The control API behind the reverse proxies that deploy/proxy/ has files for: commands and page, over TLS, below a path."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import trustme
from support.daemons import served
from support.programs import command, port_of_its_own

PROXY = Path(__file__).parent.parent.parent / "deploy" / "proxy"
TOKEN = "t0ken-of-the-test"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ca")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    issued = ca.issue_cert("localhost")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(folder / "cert.pem", append=True)
    return folder


def nginx(folder: Path, listen: str, port: int, authority: Path) -> list[str]:
    text = (PROXY / "nginx.conf").read_text()
    text = text.replace("listen 443", f"listen 127.0.0.1:{port}").replace("crawler.example.org", "localhost")
    text = text.replace("/etc/ssl/crawler/fullchain.pem", str(authority / "cert.pem")).replace("127.0.0.1:9700", listen)
    text = text.replace("/etc/ssl/crawler/privkey.pem", str(authority / "key.pem"))
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    log = f"error_log {folder}/error.log;\npid {folder}/pid;\n"
    (folder / "nginx.conf").write_text(f"{log}events {{}}\nhttp {{\naccess_log off;\n{paths}{text}}}\n")
    return ["nginx", "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf", "-g", "daemon off; master_process off;"]


def caddy(folder: Path, listen: str, port: int, authority: Path) -> list[str]:
    text = (PROXY / "Caddyfile").read_text().replace("127.0.0.1:9700", listen)
    tls = f"tls {authority / 'cert.pem'} {authority / 'key.pem'}\n\tbind 127.0.0.1\n"
    text = re.sub(r"^crawler\.example\.org \{\n", f"https://localhost:{port} {{\n\t{tls}", text, flags=re.M)
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{text}")
    return ["caddy", "run", "--config", f"{folder}/Caddyfile"]


@contextlib.contextmanager
def running(arguments: list[str], port: int, folder: Path):
    environ = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    with (folder / "said").open("wb") as said, subprocess.Popen(arguments, stdout=said, stderr=said, env=environ) as process:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None, (folder / "said").read_text()
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("proxy", [nginx, caddy], ids=["nginx", "caddy"])
def test_commands_and_page_go_through_a_proxy(tmp_path, authority, proxy):
    program = proxy.__name__
    if shutil.which(program) is None and not Path(f"/usr/sbin/{program}").exists():
        pytest.skip(f"{program} is not installed (Debian: apt install {program})")
    token = tmp_path / "token"
    token.write_text(TOKEN)
    port, folder = port_of_its_own(), tmp_path / "proxy"
    folder.mkdir()
    with served(tmp_path / "d", "--api-token-file", str(token), "--server-names", "localhost") as daemon:
        arguments = proxy(folder, daemon.listen, port, authority)
        with running(arguments, port, folder):
            url = f"https://localhost:{port}/crawler"
            ours = ("--api", url, "--api-token-file", str(token))
            where = (*ours, "--ca-file", str(authority / "ca.pem"))
            done = command("status", *where)
            assert done.returncode == 0 and "running" in done.stdout, done.stderr
            assert command("pause", *where).returncode == 0
            assert command("add", "http://a.test/", *where).returncode == 0
            assert "waits for its visit" in command("why", "http://a.test/", *where).stdout
            untrusted = command("status", *ours)
            assert (untrusted.returncode, "certificate" in untrusted.stderr) == (1, True)
            the_page(url, authority)


def the_page(url: str, authority: Path) -> None:
    """A browser logs in, stays below the path, and is kept live."""
    import ssl
    from http.cookiejar import CookieJar

    tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(authority / "ca.pem")))
    jar = CookieJar()
    browser = urllib.request.build_opener(tls, urllib.request.HTTPCookieProcessor(jar))
    origin = {"Origin": url.removesuffix("/crawler"), "Sec-Fetch-Site": "same-origin"}
    login = urllib.request.Request(f"{url}/login", f"token={TOKEN}".encode(), origin)
    with browser.open(login, timeout=30) as answer:
        assert answer.url == f"{url}/" and "paused" in answer.read().decode(), "it has gone to the page"
    (kept,) = jar
    assert kept.secure and kept.path == "/crawler", "another program at that host does not see it"
    steer = urllib.request.Request(f"{url}/steer", b"action=resume", origin)
    with browser.open(steer, timeout=30) as answer:
        assert answer.url == f"{url}/" and 'class="state good"' in answer.read().decode()
    with browser.open(f"{url}/events?version=0", timeout=30) as answer:
        assert answer.readline().startswith(b"id: ")
