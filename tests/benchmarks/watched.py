"""Memory of a crawl over the URLs it settled: any ``crawler run`` command, with its tree's PSS sampled beside its metrics.

python tests/benchmarks/watched.py run -i urls.txt -o out --archive discard --memory-limit 256MiB > memory.csv
"""

from __future__ import annotations

import subprocess
import sys
import time

from gauges import free_port, scraped, tree_pss


def main() -> int:
    port = free_port()
    command = [sys.executable, "-m", "crawler", *sys.argv[1:], "--metrics-listen", f"127.0.0.1:{port}", "--quiet"]
    print("seconds,done,pss_bytes,store_bytes,connections,idle_connections,memory_state", flush=True)
    began, peak = time.monotonic(), 0
    crawl = subprocess.Popen(command)
    try:
        while crawl.poll() is None:
            time.sleep(0.5)
            pss, gauges = tree_pss(crawl.pid), scraped(port)
            peak = max(peak, pss)
            if not gauges:
                continue
            done = gauges['crawler_frontier_urls{state="done"}']
            store = gauges['crawler_memory_used_bytes{account="store"}']
            acquired, idle = (gauges[f'crawler_connections{{state="{state}"}}'] for state in ("acquired", "idle"))
            states = [name.split('"')[1] for name, on in gauges.items() if name.startswith("crawler_memory_state{") and on]
            row = f"{done:.0f},{pss},{store:.0f},{acquired:.0f},{idle:.0f},{states[0]}"
            print(f"{time.monotonic() - began:.1f},{row}", flush=True)
    finally:
        crawl.terminate()
        crawl.wait()
    print(f"peak PSS {peak / (1 << 20):.1f} MiB", file=sys.stderr)
    return crawl.returncode


if __name__ == "__main__":
    sys.exit(main())
