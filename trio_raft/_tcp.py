"""TCP, the transport that a node uses unless it is given another one.

Frames are written whole, so that waiting to fill a packet would only add delay: Trio's socket streams set
TCP_NODELAY, and nothing here takes it back.
"""

from collections.abc import Sequence

import trio

from trio_raft._config import split_address
from trio_raft.abc import Transport


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
            return await trio.open_tcp_stream(host, port)
        except UnicodeError as error:
            raise OSError(f"{host!r} is no host name: {error}") from error

    async def listen(self, address: str) -> Sequence[trio.abc.Listener[trio.abc.Stream]]:
        """Bind to every address of the host.  Raises OSError if one is taken or not ours."""
        host, port = split_address("address", address)
        try:
            return await trio.open_tcp_listeners(port, host=host)
        except UnicodeError as error:
            raise OSError(f"{host!r} is no host name: {error}") from error
