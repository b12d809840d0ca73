"""The commands: text in, text and exit code out."""
