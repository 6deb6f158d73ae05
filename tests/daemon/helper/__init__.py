"""Tests of `shimpy.daemon.helper`."""
