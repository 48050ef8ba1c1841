"""JSON objects, one per line, over a pipe: how controller and children talk.

House rule: a message to a child stays below ``PIPE_BUF`` (4 KiB). The system takes so short a write whole
or not at all, so a send that is cancelled because the child is stopped never leaves half a line behind.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import trio

Message = dict[str, Any]


def encode_line(message: Message) -> bytes:
    """One message as a line of bytes."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


async def each_message(stream: trio.abc.ReceiveStream) -> AsyncIterator[Message]:
    """Every message until the other side closes. A last line without its end is dropped: its writer died."""
    unfinished = b""
    async for chunk in stream:
        *lines, unfinished = (unfinished + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)


class MessageSender:
    """Sends messages for several tasks, each line whole."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream
        self._sending = trio.StrictFIFOLock()

    async def send(self, message: Message) -> None:
        """Send one message. Raises ``trio.BrokenResourceError`` if the other side is gone."""
        async with self._sending:
            await self._stream.send_all(encode_line(message))
