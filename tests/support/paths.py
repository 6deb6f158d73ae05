"""Where the project is."""

from __future__ import annotations

from pathlib import Path

# The directory of pyproject.toml.
ROOT = Path(__file__).resolve().parents[2]
