"""A digest of Python's own: hashlib would load all of OpenSSL, which is 5 MB of memory."""

from __future__ import annotations

import os
import sys

if sys.version_info >= (3, 12):
    from _sha2 import sha256
else:
    from _sha256 import sha256  # type: ignore[import-not-found]  # typeshed leaves it out


def sha256_hex(text: str) -> str:
    """Returns the SHA-256 of a text as 64 hexadecimal digits.

    Args:
        text: which may be a path that is not UTF-8, as the interpreter has it.
    """
    return str(sha256(os.fsencode(text)).hexdigest())
