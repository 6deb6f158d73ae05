"""Users and groups by the names that they have in a container."""

from __future__ import annotations

from typing import Protocol

import typer

from shimpy.core.model import User
from shimpy.errors import NotFoundError

# Bytes of a container's passwd(5) or group(5) that are read.
_LONGEST = 1 << 20


class Files(Protocol):
    """Whose files are looked into."""

    async def read_file(self, path: str, *, limit: int) -> bytes: ...


async def find_user(text: str, container: Files) -> User:
    """Returns whom `USER[:GROUP[,GROUP…]]` means, by names of the container or by numbers.

    As with docker, a user without groups is in those that the container's files say, if they say any.

    Args:
        text: what was given.
        container: whose files are looked into, where they are needed.

    Raises:
        NotFoundError: there is no such name.
    """
    name, colon, groups = text.partition(":")
    if not name or (colon and not all(groups.split(","))):
        raise typer.BadParameter(f"--user: {text!r} is not USER[:GROUP[,GROUP...]]")
    if colon and name.isdecimal() and all(group.isdecimal() for group in groups.split(",")):
        gid, *more = (int(group) for group in groups.split(","))
        return User(int(name), gid, tuple(more))
    entries = await _entries(container, "/etc/passwd")
    found = next((entry for entry in entries if entry[0] == name or entry[2] == name), None)
    if found is None and not name.isdecimal():
        raise NotFoundError(f"--user: the container's /etc/passwd has no user {name}")
    uid = int(name) if found is None else int(found[2])
    all_groups = await _entries(container, "/etc/group")
    if colon:
        gid, *more = (_group(group, all_groups) for group in groups.split(","))
        return User(uid, gid, tuple(more))
    if found is None:
        return User(uid)
    member_of = (int(entry[2]) for entry in all_groups if found[0] in entry[3].split(","))
    return User(uid, int(found[3]), tuple(member_of))


def _group(name: str, entries: list[list[str]]) -> int:
    if name.isdecimal():
        return int(name)
    for entry in entries:
        if entry[0] == name:
            return int(entry[2])
    raise NotFoundError(f"--user: the container's /etc/group has no group {name}")


async def _entries(container: Files, path: str) -> list[list[str]]:
    """Returns the entries of a file such as passwd(5); none if it is not there."""
    try:
        text = (await container.read_file(path, limit=_LONGEST)).decode(errors="replace")
    except NotFoundError:
        return []
    entries = (line.split(":") for line in text.splitlines())
    return [entry for entry in entries if len(entry) >= 4 and entry[2].isdecimal()]
