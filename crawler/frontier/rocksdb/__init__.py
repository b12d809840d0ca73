"""The durable store, on an embedded RocksDB.

store         the contract of ``crawler.frontier.store``, by means of all below
layout        families, keys and values
database      one open RocksDB: its memory, its errors; opening recognises or refuses a directory
manifest, watermark   what a power cut may have torn, and what it must not
transaction   the writes of one commit
claims        which links are handed out; seen: what is known of URLs
reader        a store read beside a running crawl
upstream      the seam to a cluster, where this store is a working copy
moving        hosts moved to another store
"""
