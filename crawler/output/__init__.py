"""What a crawl writes, and how it is read back."""
