"""One crawl as a process."""
