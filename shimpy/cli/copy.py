"""`shimpy cp`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from shimpy.cli import tty
from shimpy.core.model import User

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from shimpy.client.files.container_files import ContainerFiles

_STDIN, _STDOUT = 0, 1


async def copy(
    source: str,
    target: str,
    current: Callable[[str], AbstractAsyncContextManager[ContainerFiles]],
    *,
    archive: bool,
) -> None:
    """Copies as `docker cp` does.

    Args:
        source: `CONTAINER:PATH`, a path here, or `-` for a tar archive on stdin.
        target: the same, `-` being stdout.
        current: gives the container of a name.
        archive: keep users and groups on the way in.
    """
    inside, outside = _split(source), _split(target)
    if (inside is None) == (outside is None):
        raise typer.BadParameter("give one of the two as CONTAINER:PATH, and the other as PATH or -")
    if inside is not None:
        name, path = inside
        async with current(name) as container:
            if target == "-":
                await _write_archive(container, path)
            else:
                await container.get(path, target, limit=None)  # as docker has it
    elif outside is not None:
        name, path = outside
        async with current(name) as container:
            if source == "-":
                await container.put_archive(path, _stdin(), owner=None)
            else:
                await container.put(source, path, owner=None if archive else User())


def _split(text: str) -> tuple[str, str] | None:
    """Returns a container's name and a path in it; None for a path here, such as `./a:b`."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or name == "." or text == "-":
        return None
    # As docker has it, a path in a container begins at its root.
    return name, path if path.startswith("/") else f"/{path}"


async def _stdin() -> AsyncIterator[bytes]:
    while data := await tty.read(_STDIN):
        yield data


async def _write_archive(container: ContainerFiles, path: str) -> None:
    output = tty.Output(_STDOUT)
    try:
        async with container.get_archive(path) as stream:
            async for data in stream:
                await output.write(data)
    finally:
        output.close()
