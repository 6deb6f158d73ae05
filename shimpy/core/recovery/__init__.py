"""A shim that is started again: what the one before had is taken up."""
