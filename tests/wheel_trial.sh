#!/usr/bin/env bash
# Source archive and wheel, built by pinned tools twice alike, and the wheel installed in an environment of its own: there the
# first command of the README crawls a site on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SOURCE_DATE_EPOCH=1767225600 PIP_DISABLE_PIP_VERSION_CHECK=1

python3 -m venv "$work/tools"
"$work/tools/bin/pip" install -q --require-hashes -r deploy/build-constraints.txt
for to in first second; do "$work/tools/bin/python" -m build --no-isolation --outdir "$work/$to" . >/dev/null; done
cmp "$work"/first/*.whl "$work"/second/*.whl

python3 -m venv "$work/fresh"
"$work/fresh/bin/pip" install -q --require-hashes -r deploy/constraints.txt
"$work/fresh/bin/pip" install -q --no-deps "$work"/first/*.whl
"$work/fresh/bin/pip" check
cd "$work"
"$work/fresh/bin/python" - <<'PROGRAM'
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
