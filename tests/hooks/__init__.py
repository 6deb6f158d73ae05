"""The hooks that come along."""
