"""Who waits for which child: real processes, no runtime."""
