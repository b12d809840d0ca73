"""The life of one URL, and the wiring of all parts."""
