"""Tests of what is read from cgroups."""
