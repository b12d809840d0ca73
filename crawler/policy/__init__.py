"""Pure decisions: what may be crawled, when, and how a visit ended."""
