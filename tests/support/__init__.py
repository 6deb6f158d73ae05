"""What the tests share, one topic to a file."""
