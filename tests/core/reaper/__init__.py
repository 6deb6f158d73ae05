"""The reaper: real processes, no runtime."""
