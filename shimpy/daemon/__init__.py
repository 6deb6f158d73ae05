"""The processes that shimpy runs as: their start, their log, their end."""
