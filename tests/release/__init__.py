"""What `make release-check` does: the archives that are published, tried as those who install them would."""
