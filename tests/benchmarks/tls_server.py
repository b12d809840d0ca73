"""An HTTPS server that answers late, so that many connections are open at a time: every address of 127.0.0.0/8 is a host.

python tests/benchmarks/tls_server.py 8443 5        # port, seconds before each answer; needs trustme
python -m crawler run -i urls.txt -o out --insecure --allow-net 127.0.0.0/8 ...
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl

import trustme

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000


async def main(port: int, wait_s: float) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(wait_s)
                writer.write(ANSWER)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "0.0.0.0", port, ssl=context, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("seconds", type=float, help="before each answer")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.port, arguments.seconds))
