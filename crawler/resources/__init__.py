"""What this machine has: memory, disk, network."""
