"""Tests of mounts."""
