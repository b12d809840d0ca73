"""Values and primitives. Import the file that has the name: parser processes pay for every import."""
