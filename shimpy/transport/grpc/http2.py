"""h2 with the limits of a server, and without the ways in which it would be slow or greedy."""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import FrameTooLargeError
from h2.settings import SettingCodes, Settings

from shimpy.transport.grpc.limits import (
    MAX_CLOSED_STREAMS,
    MAX_FRAME,
    MAX_HEADER_BLOCK,
    MAX_HEADERS,
    MAX_MESSAGE,
    MAX_STREAMS,
)

# Latin-1 takes any byte: a header that is not ASCII is refused by its reader instead of failing the
# connection.
_CONFIG = H2Configuration(
    client_side=False,
    header_encoding="latin-1",
    validate_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_inbound_headers=False,
    normalize_outbound_headers=False,
)

# Bytes before each frame's own; the first three are its length (RFC 9113, section 4.1).
_FRAME_HEADER = 9


class HTTP2(H2Connection):
    """h2's half of a connection, which has greeted the peer."""

    MAX_CLOSED_STREAMS = MAX_CLOSED_STREAMS

    _sweep_at = 64

    def __init__(self) -> None:
        super().__init__(_CONFIG)
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME,
                SettingCodes.INITIAL_WINDOW_SIZE: MAX_MESSAGE,
            },
        )
        self.decoder.max_header_list_size = MAX_HEADER_BLOCK
        self.initiate_connection()
        self.increment_flow_control_window(MAX_MESSAGE)

    @property
    def open_inbound_streams(self) -> int:
        """Nothing: shimpy counts the streams itself.

        h2 ends the whole connection when one stream is too many, where the RFC has that stream refused, and
        it visits every stream to count them each time that one is opened. What it did on the way, forgetting
        the closed ones, is done here whenever the number of streams has doubled.
        """
        if len(self.streams) >= self._sweep_at:
            self._sweep_at = 64 + 2 * super().open_inbound_streams
        return 0

    def missing(self) -> int:
        """Returns how many bytes the frame lacks that has come in part.

        Raises:
            FrameTooLargeError: it is larger than what was agreed on; h2 would take in all of it, 16 MiB,
                before it looks.
        """
        unread = self.incoming_buffer._data
        if len(unread) < _FRAME_HEADER:
            return 0
        length = int.from_bytes(unread[:3])
        if length > self.max_inbound_frame_size:
            self._terminate_connection(ErrorCodes.FRAME_SIZE_ERROR)
            raise FrameTooLargeError("a frame is larger than what was agreed on")
        return _FRAME_HEADER + length - len(unread)
