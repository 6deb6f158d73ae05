"""Runs the Python of one page, as a reader would type it in: what a block makes is there for the next."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Any, cast

import shimpy


def main(blocks: list[str]) -> None:
    """Runs blocks one after the other, each with `await` wherever it likes.

    Args:
        blocks: their texts.
    """
    names: dict[str, Any] = {"asyncio": asyncio, "shimpy": shimpy, "__name__": "__main__"}

    async def run() -> None:
        for number, text in enumerate(blocks, 1):
            code = compile(text, f"<block {number}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            # With an await at its top it is a coroutine.
            result = eval(code, names)
            if asyncio.iscoroutine(result):
                await cast("Coroutine[Any, Any, None]", result)

    asyncio.run(run())


if __name__ == "__main__":
    main(json.load(sys.stdin))
