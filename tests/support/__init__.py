"""What tests share: servers, webs, stores, faults. Imported as ``support.name``."""
