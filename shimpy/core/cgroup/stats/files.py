"""The files of one cgroup, each read with three system calls, and what is in them (cgroups(7))."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from typing import Final, Self

# What `max` stands for.
UNLIMITED: Final = 2**64 - 1

_CHUNK: Final = 1 << 16  # bytes; memory.stat, mostly the longest, has some 2,000


class Files:
    """The files of a cgroup that is there.

    What is missing reads as nothing: a controller that is off, a kernel that is older, a cgroup that is
    being removed.

    Args:
        directory: of the cgroup.

    Raises:
        OSError: it is not there.
    """

    def __init__(self, directory: str) -> None:
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._directory)

    def text(self, name: str) -> str | None:
        """Returns what a file holds, or None if it cannot be read.

        That is ENOENT; ENODEV once the cgroup is removed; EOPNOTSUPP of a controller that is off.
        """
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        except OSError:
            return None
        try:
            # Such a file is one record (seq_file in the kernel's docs), which is read whole if there is
            # room for it: what is shorter was the end.
            chunks = [os.read(fd, _CHUNK)]
            while len(chunks[-1]) == _CHUNK:
                chunks.append(os.read(fd, _CHUNK))
        except OSError:
            return None
        finally:
            os.close(fd)
        return b"".join(chunks).decode("ascii", "replace")

    def number(self, name: str) -> int:
        """Returns the one number that a file holds, 0 if it cannot be read."""
        return number(self.text(name) or "")

    def pairs(self, name: str) -> dict[str, int] | None:
        """Returns the numbers of a file that has lines of a key and a number, or None."""
        text = self.text(name)
        if text is None:
            return None
        fields = (line.split() for line in text.splitlines())
        return {field[0]: number(field[1]) for field in fields if len(field) == 2}

    def nested(self, name: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Yields each line of a file with a key and `name=value` fields, such as io.stat."""
        for line in (self.text(name) or "").splitlines():
            key, *fields = line.split() or [""]
            parted = (field.partition("=") for field in fields)
            yield key, {left: right for left, equals, right in parted if equals}


def number(text: str, *, unlimited: int = UNLIMITED) -> int:
    """Returns a number as the kernel writes it; 0 for one that is negative, or is not a number.

    Args:
        text: digits, or `max`.
        unlimited: what `max` stands for.
    """
    text = text.strip()
    if text == "max":
        return unlimited
    return int(text) if text.isdecimal() else 0


def device_number(text: str) -> tuple[int, int] | None:
    """Returns the major and minor number of a device, None if the text is not `major:minor`."""
    major, _, minor = text.partition(":")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


@functools.cache
def huge_page_sizes() -> tuple[str, ...]:
    """Returns the sizes of huge pages that this machine has, as the names of the files have them: `2MB`."""
    try:
        names = os.listdir("/sys/kernel/mm/hugepages")
    except OSError:
        return ()
    matches = (re.fullmatch(r"hugepages-(\d+)kB", name) for name in names)
    return tuple(_in_words(kilobytes) for kilobytes in sorted(int(match[1]) for match in matches if match))


def _in_words(kilobytes: int) -> str:
    if kilobytes >= 1 << 20:
        return f"{kilobytes >> 20}GB"
    return f"{kilobytes >> 10}MB" if kilobytes >= 1 << 10 else f"{kilobytes}KB"
