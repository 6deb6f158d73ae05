"""Tests of `shimpy.daemon.keeper`."""
