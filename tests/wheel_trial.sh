#!/usr/bin/env bash
# wheel_trial.sh PREFIX: in what deploy/docker/build.sh has made there, the first command of the README crawls a site on this
# machine, and what it wrote is whole.
set -euo pipefail
program=$1/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"$program/python" - <<'PROGRAM'
import http.server, pathlib, subprocess, sys, threading

pathlib.Path("site").mkdir()
pathlib.Path("site/index.html").write_text("<!doctype html><title>here</title>")
handler = lambda *args: http.server.SimpleHTTPRequestHandler(*args, directory="site")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
crawler = str(pathlib.Path(sys.executable).with_name("crawler"))
site = f"http://127.0.0.1:{server.server_port}/"
subprocess.run([crawler, "run", site, "-o", "out/", "--allow-net", "127.0.0.0/8"], check=True)
subprocess.run([crawler, "verify", "out/"], check=True)
PROGRAM
