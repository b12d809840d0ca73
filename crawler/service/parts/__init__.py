"""One crawl by several processes: the parts, each of which crawls some of the hosts, and their parent, which speaks for all."""
