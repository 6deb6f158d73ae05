"""Which published ways out of a container a runtime is too old to have closed."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import NamedTuple

from shimpy.core.runtime.runtime import Runtime
from shimpy.errors import ShimError

_log = logging.getLogger(__name__)

# Seconds for the runtime to say its version.
VERSION_TIMEOUT = 10.0

_VERSION = re.compile(r"^runc version v?(\d+)\.(\d+)\.(\d+)(?:-rc\.?(\d+))?", re.MULTILINE)

# Sorts a release after its candidates.
_FINAL = 10**6

Version = tuple[int, int, int, int]


class Advisory(NamedTuple):
    """A published escape from runc's containers.

    Attributes:
        name: its CVE numbers.
        fixed: the first fixed version of each release branch, oldest branch first; older branches
            have no fix of their own, younger ones were born with it.
    """

    name: str
    fixed: tuple[Version, ...]

    def affects(self, version: Version) -> bool:
        """Returns whether a version is older than the fix of its branch."""
        for first in self.fixed:
            if version[:2] <= first[:2]:
                return version < first
        return False


_ADVISORIES = (
    # A file descriptor of the host's file system leaks into the container.
    Advisory("CVE-2024-21626", ((1, 1, 12, _FINAL),)),
    # Masked paths, /dev/console and procfs writes that are redirected by races on mounts.
    Advisory(
        "CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881",
        ((1, 2, 8, _FINAL), (1, 3, 3, _FINAL), (1, 4, 0, 3)),
    ),
)


def known_escapes(version_text: str) -> list[str]:
    """Returns the names of the escapes that a runc of this version has no fix for.

    Distributions carry fixes back without a new version, so this is a reason to look, not a
    verdict. Nothing is said of other runtimes.

    Args:
        version_text: what `runc --version` prints.
    """
    match = _VERSION.search(version_text)
    if match is None:
        return []
    major, minor, patch, candidate = match.groups()
    version = (int(major), int(minor), int(patch), _FINAL if candidate is None else int(candidate))
    return [advisory.name for advisory in _ADVISORIES if advisory.affects(version)]


def advice(runtime: str, version_text: str) -> str | None:
    """Returns what to say of a runtime that has known escapes, in one line; None if it has none.

    Args:
        runtime: its name.
        version_text: what it prints for `--version`.
    """
    names = known_escapes(version_text)
    if not names:
        return None
    return (
        f"{runtime} ({version_text.splitlines()[0]}) has published escapes from its containers: "
        f"{', '.join(names)}; upgrade it, unless your distribution has the fixes"
    )


async def warn_of_known_escapes(runtime: Runtime) -> None:
    """Warns in the log when a runtime is older than the fixes of its known escapes.

    Args:
        runtime: is asked for its version.
    """
    try:
        async with asyncio.timeout(VERSION_TIMEOUT):
            version = await runtime.version()
    except (ShimError, TimeoutError) as error:
        _log.warning("cannot tell the version of %s: %s", runtime.name, error)
        return
    if said := advice(runtime.name, version):
        _log.warning("%s", said)
