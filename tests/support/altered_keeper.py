"""The keeper with other numbers, begun as a helper: its first argument is an object of them as JSON."""

from __future__ import annotations

import importlib
import json

from shimpy.daemon.keeper import main as keeper


def main(arguments: list[str]) -> int:
    """Sets `{"module.NAME": value}`, functions to return the value, and is a keeper."""
    for where, value in json.loads(arguments[0]).items():
        module, name = where.split(".")
        place = importlib.import_module(f"shimpy.daemon.keeper.{module}")
        setattr(place, name, (lambda value=value: value) if callable(getattr(place, name)) else value)
    return keeper.main(arguments[1:])
