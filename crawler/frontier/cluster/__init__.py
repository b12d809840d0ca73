"""The crawl of many machines: PostgreSQL holds the truth, each member's RocksDB is a working copy of the slots it leases.

truth        what a member asks of the database, and what it is told (Protocol)
postgres     that, on PostgreSQL; schema has its tables, session its connections, columns its arrays
mirror       between a member's RocksDB and the truth: what is written here is true there first
rows         a store's entries as rows of the truth
box          what members send each other: rows, deleted in the commit that makes them true; incoming reads them
slots        which slots a member has, and how far it is with each
member       leases, loading, takeover and the end, in the crawl's loop; engine is the thread that it asks
accused      visits that may have ended a process, counted once wherever their links are by then
lost_disks   what only a lost disk held is due again
room         whether a member wants slots at all
node         the directory of a node, and its stores read as one
lessees, gauges, overview   what people are told: who leases a host, a node's metrics, ``crawler cluster status``
"""
