"""Tests of what a container may do and use."""
