"""What a container may do and use: the options that say it, and the defaults for untrusted code."""
