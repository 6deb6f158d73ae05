"""What one peer may take, each limit with its reason."""

from __future__ import annotations

import time

# gRPC's own default for the messages that a server takes, and twice what execve(2) allows an Exec to carry.
MAX_MESSAGE = 4 * 1024 * 1024

# What the unfinished requests of one connection may hold in memory together: four of the largest.
MAX_HELD = 4 * MAX_MESSAGE

# Streams open at once on one connection. Each Events subscription is one, and takes about 10 kB; the tests
# hold 1,000 of them on one connection. What is over it is refused, and may be tried again (REFUSED_STREAM).
MAX_STREAMS = 2_048

# Connections open at once. A client needs one; this is enough for every client that watches a container, and
# keeps the file descriptors that they take far below the usual limit of 1,024.
MAX_CONNECTIONS = 256

# Bytes of the request headers of one call, as HTTP/2 counts them: the hard limit of Google's gRPC.
# Past it the call is refused; past the second one the header block is not even decoded, and since the
# connection's header compression is broken by that, so is the connection.
MAX_HEADERS = 16 * 1024
MAX_HEADER_BLOCK = 4 * MAX_HEADERS

# The largest frame of HTTP/2 that is taken: the least that a server may ask for (RFC 9113, section 6.5.2).
MAX_FRAME = 16 * 1024

# Bytes read from one connection before the others have their turn, unless they are the rest of one frame.
# About 35 calls that are reset at once, or 100 of the smallest frames: some 5 ms.
READ_SIZE = 1024

# Seconds for a new connection to say its first words (the preface and SETTINGS, which clients send at once).
PREFACE_TIMEOUT = 10.0

# Seconds for a peer to read the last words to it before the connection is cut.
CLOSING_TIMEOUT = 1.0

# Closed streams that h2 remembers, to tell a late frame from a wrong one: its own 65,536 would come to 7 MB
# for each connection.
MAX_CLOSED_STREAMS = 2_048

# The longest grpc-message in bytes as it is encoded: half of the 8 KiB to which Google's gRPC keeps headers.
MAX_STATUS_MESSAGE = 4 * 1024


class TokenBucket:
    """What a peer may spend on frames that do no work: pings, settings, resets, empty data.

    The bucket starts full and refills with time and with every call that is answered. A frame
    takes about 25 µs to handle, so an idle peer can take about 3 % of a CPU for good, and a quarter of a
    second at once. The burst lets a client cancel all of its MAX_STREAMS calls twice over.
    """

    BURST = 10_000.0
    PER_SECOND = 1_000.0

    # What things cost and earn, in tokens of one cheap frame. A SETTINGS frame makes h2 visit every stream; a
    # reset costs a task that was made for nothing (CVE-2023-44487, "rapid reset").
    FRAME = 1.0
    RESET = 2.0
    SETTINGS = 20.0
    ANSWERED = 20.0
    SENT = 4.0

    __slots__ = ("_at", "_tokens")

    def __init__(self) -> None:
        self._tokens = self.BURST
        self._at = time.monotonic()

    def refill(self, tokens: float) -> None:
        """Gives tokens back for useful work."""
        self._tokens = min(self.BURST, self._tokens + tokens)

    def take(self, tokens: float) -> bool:
        """Takes tokens; returns False when there are none left."""
        if self._tokens < tokens:
            now = time.monotonic()
            self.refill((now - self._at) * self.PER_SECOND)
            self._at = now
        self._tokens -= tokens
        return self._tokens >= 0
