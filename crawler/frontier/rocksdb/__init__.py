"""The durable store, on an embedded RocksDB."""
