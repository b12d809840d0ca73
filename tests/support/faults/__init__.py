"""Faults below Python: a shim that logs and fails system calls, and the directory as a power cut would leave it."""
