"""The crawl of many machines: PostgreSQL holds the truth, each member's RocksDB is a working copy of the slots it leases.

truth      what a member asks of the database, and what it is told (Protocol)
postgres   that, on PostgreSQL; schema has its tables
mirror     between a member's RocksDB and the truth: what is written here is true there first
rows       a store's entries as rows of the truth
box        what members send each other: rows, deleted in the commit that makes them true
member     leases, loading, takeover and the end, in the crawl's loop
"""
