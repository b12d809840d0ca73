r"""The misbehaving web site as a command, to be crawled by hand:

    python tests/site.py --port 8901
    crawler run http://127.0.0.1:8901/ --depth 1 --allow-net 127.0.0.0/8 --no-robots --delay 0 --factor 0 \
        --per-host 100 --retries 0 --max-time 2min -o out/

The index page links to every sin and to as many good pages; ``--list`` prints each sin with its required end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from support.sinful import Site
from support.sinful_net import EXTRAS
from support.sins import SINS
from support.sins_coding import CODINGS
from support.sins_net import NET
from support.sins_smuggled import SMUGGLED

ALL = SINS | CODINGS | NET | SMUGGLED


async def serve(host: str, port: int, ca_file: Path | None) -> None:
    async with Site(host=host, port=port, scripts={name: sin.script for name, sin in ALL.items()}, extras=EXTRAS) as site:
        if ca_file is not None:
            ca_file.write_bytes(site.ca_pem)
        for name, number in site.ports.items():
            print(f"{name:24} 127.0.0.1:{number}", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8901, help="where plain HTTP is served; the other servers take any port")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: each address of 127.0.0.0/8 is a host of its own")
    parser.add_argument("--ca-file", type=Path, help="write the certificate of the TLS servers' authority here")
    parser.add_argument("--list", action="store_true", help="print the sins instead of committing them")
    options = parser.parse_args()
    if options.list:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ``| head``
        for name, sin in ALL.items():
            print(f"{name:32} {sin.outcome:16} {sin.reason or ''}")
        return
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.host, options.port, options.ca_file))


if __name__ == "__main__":
    main()
