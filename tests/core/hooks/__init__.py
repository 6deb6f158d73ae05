"""Hooks: how they are asked and told, where they come from, and the tee of output."""
