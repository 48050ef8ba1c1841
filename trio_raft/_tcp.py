"""TCP, the transport that a node uses unless it is given another one.

Frames are written whole, so that waiting to fill a packet would only add delay: the sockets have TCP_NODELAY.

``TCPStream`` is what Trio's own socket stream is, with a shorter way through: nearly every send finds room in the
socket's buffer, and nearly every receive has to wait first.  So a send tries before it waits and then does not give the
loop an extra turn, and a receive waits before it tries.  Per message that is 14 µs of processor time instead of 24, of
which a batch of commands needs four.
"""

import socket
from collections.abc import Sequence

import trio

from trio_raft._config import split_address
from trio_raft.abc import Transport

RECEIVE_BYTES = 64 << 10
"""Asked for at a time."""
BULK_RECEIVE_BYTES = 512 << 10
"""Asked for after a receive that got all it asked for: more is on its way."""


class TCPStream(trio.abc.Stream):
    """One connection.  Raises ``trio.BrokenResourceError`` from what the system said, as Trio's streams do."""

    def __init__(self, stream: trio.SocketStream) -> None:
        """Takes the socket over from Trio's stream, which connected it and set its options."""
        taken = stream.socket
        family, kind, protocol = taken.family, taken.type, taken.proto
        self.socket = socket.socket(family, kind, protocol, fileno=taken.detach())
        self.socket.setblocking(False)
        self._receive_bytes = RECEIVE_BYTES

    @property
    def peer_name(self) -> str:
        """``host:port`` of the other end; empty if it is gone."""
        try:
            host, port = self.socket.getpeername()[:2]
        except OSError:
            return ""
        return f"{host}:{port}"

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Send as much as there is room for, perhaps nothing, and return how many bytes that was."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._failed(error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything.  A checkpoint only where it has to wait, or is cancelled."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with memoryview(data) as view:
            sent = 0
            while True:
                with view[sent:] as rest:
                    sent += self.send_nowait(rest)
                if sent >= len(view):
                    return
                await trio.lowlevel.wait_writable(self.socket)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        self._check_open()
        await trio.lowlevel.wait_writable(self.socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait until something has arrived, and return it; nothing at the end."""
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self.socket)
            wanted = max_bytes or self._receive_bytes
            try:
                data = self.socket.recv(wanted)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._failed(error) from error
            self._receive_bytes = BULK_RECEIVE_BYTES if len(data) == wanted else RECEIVE_BYTES
            return data

    async def aclose(self) -> None:
        """Close; whoever waits here gets ``trio.ClosedResourceError``."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("the connection was closed here")

    def _failed(self, error: OSError) -> Exception:
        if self.socket.fileno() < 0:
            return trio.ClosedResourceError("the connection was closed here")
        return trio.BrokenResourceError(f"the connection failed: {error}")


class TCPListener(trio.abc.Listener[TCPStream]):
    """One bound socket."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self.socket = listener.socket

    async def accept(self) -> TCPStream:
        """The next connection."""
        return TCPStream(await self._listener.accept())

    async def aclose(self) -> None:
        """Close the socket."""
        await self._listener.aclose()


class TCPTransport(Transport):
    """Plain TCP; addresses are ``host:port``, with IPv6 hosts in brackets.

    Nothing is encrypted and nobody is authenticated: for a network that others share, wrap another transport's
    streams in ``trio.SSLStream``.
    """

    async def dial(self, address: str) -> trio.abc.Stream:
        """Connect to the first of the host's addresses that answers.  Raises OSError.

        Cancelled: nothing is left open.
        """
        host, port = split_address("address", address)
        try:
            return TCPStream(await trio.open_tcp_stream(host, port))
        except socket.gaierror as error:
            # Its number is none of errno's: whoever looks it up there would find something else, or nothing.
            raise OSError(f"no address is known of {host!r}: {error.strerror}") from None
        except UnicodeError as error:
            raise OSError(f"{host!r} is no host name: {error}") from error

    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        """Bind to every address of the host.  Raises OSError if one is taken or not ours."""
        host, port = split_address("address", address)
        try:
            return [TCPListener(listener) for listener in await trio.open_tcp_listeners(port, host=host)]
        except UnicodeError as error:
            raise OSError(f"{host!r} is no host name: {error}") from error
