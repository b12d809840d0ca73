"""Foreign documents into links. Import the file that has the name: parser processes pay for every import."""
