"""One exchange and its bounded body."""
