"""Users by the names that a container has for them."""

from __future__ import annotations

from typing import Any, cast

import pytest
import typer

import shimpy
from shimpy.cli.users import find_user

pytestmark = pytest.mark.anyio

FILES = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nworker:x:12:34::/:/bin/sh\nbroken\nodd:x:text:1::/:\n",
    "/etc/group": b"root:x:0:\nstaff:x:50:worker,other\ndisk:x:6:worker\n",
}


class Files:
    """A container as far as it is asked."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    async def read_file(self, path: str, **_options: Any) -> bytes:
        try:
            return self._files[path]
        except KeyError:
            raise shimpy.NotFoundError(path) from None


async def find(text: str, files: dict[str, bytes] = FILES) -> shimpy.User:
    return await find_user(text, cast("shimpy.Container", Files(files)))


@pytest.mark.parametrize(
    ("text", "user"),
    [
        ("worker", shimpy.User(12, 34, (50, 6))),
        ("12", shimpy.User(12, 34, (50, 6))),
        ("77", shimpy.User(77)),
        ("worker:disk", shimpy.User(12, 6)),
        ("worker:7,staff", shimpy.User(12, 7, (50,))),
        ("12:7", shimpy.User(12, 7)),
        ("12:staff", shimpy.User(12, 50)),
    ],
)
async def test_names_are_those_of_the_container(text: str, user: shimpy.User) -> None:
    assert await find(text) == user


async def test_numbers_need_no_files() -> None:
    assert await find("7:8,9", {}) == shimpy.User(7, 8, (9,))
    assert await find("7", {}) == shimpy.User(7)


@pytest.mark.parametrize("text", ["nobody", "odd", "broken", "worker:nogroup"])
async def test_a_name_that_there_is_not_is_said(text: str) -> None:
    with pytest.raises(shimpy.NotFoundError, match="has no"):
        await find(text)


@pytest.mark.parametrize("text", ["", ":7", "worker:", "worker:7,", "worker:,7"])
async def test_what_names_nobody_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="USER"):
        await find(text)
