"""`python -m tests.project.links` asks for each address that the documents link to: those that are gone fail.

What cannot be asked, for want of a network, is said, and is no failure. The form of each is for
`test_docs`.
"""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.paths import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs" / "pages").rglob("*.md")])

_LINK = re.compile(r"\]\((https?:[^)\s]*)\)|<(https?:[^>\s]*)>")

# Seconds for one answer.
_TIMEOUT = 15

# What servers answer of pages that are not there.
_GONE = (404, 410)


def external(path: Path) -> list[str]:
    """Returns the addresses that a document links to."""
    return ["".join(found) for found in _LINK.findall(path.read_text())]


def answer(address: str) -> str:
    """Returns what its server says of an address, in a word or two."""
    request = urllib.request.Request(address, headers={"User-Agent": "links"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT):
            return "there"
    except urllib.error.HTTPError as error:
        return "GONE" if error.code in _GONE else f"not asked: {error.code}"
    except OSError as error:
        return f"not asked: {error}"


def main() -> int:
    """Asks, and returns the exit status."""
    addresses = sorted({address for path in DOCUMENTS for address in external(path)})
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(answer, addresses))
    for address, said in zip(addresses, answers, strict=True):
        print(f"{address}: {said}")
    asked = [said for said in answers if not said.startswith("not asked")]
    print(f"{len(addresses)} addresses, {len(asked)} asked, {asked.count('GONE')} gone")
    return 1 if "GONE" in asked else 0


if __name__ == "__main__":
    sys.exit(main())
