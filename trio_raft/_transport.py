"""Channels: one connection to one peer, over any ``trio.abc.Stream``.

``dial`` and ``accept`` connect and shake hands (``_handshake.py`` judges); what they return, a ``Channel``, carries
frames until something goes wrong, and then it is dead for good: no half-sent frame is ever followed by another one.
The owner of a dead channel drops it and dials anew.

Where time comes in: connecting and shaking hands together have one deadline; a frame that began to arrive has one,
and so has every send.  Waiting for a frame to *begin* has none, because an idle connection is no failure: whoever
expects an answer sets the deadline for it.

House rule: at most one task receives; sends of several tasks take turns, each whole.  Foreign errors are translated
here, once: what the connection does wrong is ChannelBroken, what the peer does wrong is ProtocolError.
"""

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import trio

from trio_raft._codec import Frame, FrameDecoder, UnknownFrame, encode_frame
from trio_raft._config import Timeouts
from trio_raft._environment import Environment
from trio_raft._errors import HandshakeRefused, ProtocolError, leaves
from trio_raft._handshake import Handshake
from trio_raft._messages import Hello, HelloReply, Incarnation, Message, Purpose, ServerId, Unsupported
from trio_raft.abc import Transport

REST_BYTES = 256 << 10
"""Asked of a stream at a time while a frame is incomplete: what a socket gives by itself makes a large one slow."""

_CONNECTION_ERRORS = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class ChannelBroken(Exception):
    """The connection failed, was closed, or missed a deadline; the peer may well be innocent.  Drop it, dial anew."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"connection with {peer}: {reason}")
        self.peer = peer
        self.reason = reason


class NobodyListens(ChannelBroken):
    """The peer's machine answered at once that no process listens at the address."""


def unanswered(peer: str, seconds: float) -> ChannelBroken:
    """A request was not answered in time."""
    return ChannelBroken(peer, f"no answer within {seconds} s")


class Channel:
    """A connection after its handshake.

    Any failure, and any cancel inside a send or a receive, kills the channel: its stream is closed, and every later
    call raises ChannelBroken.
    """

    def __init__(self, stream: trio.abc.Stream, *, peer: str, environment: Environment, timeouts: Timeouts) -> None:
        self.peer = ServerId(peer)
        """Until the handshake is done, an address."""
        self.peer_incarnation = Incarnation("")
        self.peer_boot_id = ""
        self.peer_role = ""
        """What the listening side said that it is, at the handshake; empty if it does not say, and where it dialled."""
        self.purpose = Purpose.CONTROL
        self.max_frame_body = 0
        """Bytes; the largest frame body that the peer takes."""
        self._stream = stream
        # Of the class: a wrapper that passes on what it does not know must not be passed by.
        offered: Any = getattr(type(stream), "send_nowait", None)
        self._send_nowait: Callable[[bytes], int] | None = offered and offered.__get__(stream)
        self._clock = environment.clock
        self._frame_timeout = timeouts.frame_timeout
        self._frame_deadline: float | None = None
        """When the frame that is arriving must be complete; None while no part of one is held."""
        self._decoder = FrameDecoder(peer=peer, max_body=0)
        self._received: deque[Frame] = deque()
        self._last_request_id = 0
        self._answers_unknown = False
        # Uncontended but for the rare answer to an unknown type, which the receiving task sends itself.
        self._send_lock = trio.Lock()
        self._dead = ""

    def next_request_id(self) -> int:
        """A number that no other request on this channel had."""
        self._last_request_id += 1
        return self._last_request_id

    async def send(self, message: Message, *, request_id: int) -> None:
        """Send one message.  See ``send_frames``."""
        await self.send_frames(encode_frame(message, request_id=request_id))

    async def send_frames(self, frames: bytes) -> None:
        """Send whole frames, already encoded, within ``frame_timeout``.

        Raises ChannelBroken; the peer may have received some of the frames.  Cancelled: likewise, and the channel is
        dead.
        """
        self._check_alive()
        try:
            sent = 0
            if self._send_nowait is not None and not self._send_lock.locked():
                sent = self._send_nowait(frames)
                if sent == len(frames):
                    return  # As nearly always: no deadline had to be set and taken back.
            with self._clock.move_on_after(self._frame_timeout) as scope:
                try:
                    self._send_lock.acquire_nowait()
                except trio.WouldBlock:
                    await self._send_lock.acquire()
                try:
                    await self._stream.send_all(memoryview(frames)[sent:])
                finally:
                    self._send_lock.release()
        except _CONNECTION_ERRORS as error:
            await self._break(f"sending failed: {_describe(error)}", error)
        except BaseException:
            await self._kill("a send was cut off midway")
            raise
        if scope.cancelled_caught:
            await self._break(f"the peer did not take {len(frames)} bytes within {self._frame_timeout} s")

    async def receive(self) -> Frame:
        """The next frame; without waiting, and without a checkpoint, if it has already arrived.

        Raises as ``receive_batch`` does.
        """
        if not self._received:
            self._received.extend(await self.receive_batch())
        return self._received.popleft()

    async def receive_batch(self) -> list[Frame]:
        """Every frame that has arrived, at least one; waits for the first as long as it takes.

        Raises ChannelBroken, also when a frame that began to arrive is not complete within ``frame_timeout``, and
        ProtocolError.  Cancelled: the channel is dead.
        """
        if self._received:
            frames = list(self._received)
            self._received.clear()
            return frames
        while True:
            self._check_alive()
            # Whatever arrived before was decoded when it did.
            self._decoder.feed(await self._receive_some())
            frames = await self._decode_received()
            if frames:
                return frames

    async def request(self, message: Message) -> Message:
        """Send a request and wait for its reply, as long as it takes; no other request may be in flight.

        Raises ChannelBroken and ProtocolError, the latter also for a reply to anything else.  Cancelled: the channel
        is dead, since the reply may still come.
        """
        request_id = self.next_request_id()
        await self.send(message, request_id=request_id)
        frame = await self.receive()
        if frame.request_id != request_id:
            await self._kill("the replies are out of step")
            raise ProtocolError(self.peer, f"it answered request {frame.request_id} instead of {request_id}")
        return frame.message

    async def receive_within(self, seconds: float) -> Frame:
        """``receive``, but an answer is expected, and must come within so many seconds; else ChannelBroken."""
        with self._clock.move_on_after(seconds):
            return await self.receive()
        raise unanswered(self.peer, seconds)

    async def request_within(self, seconds: float, message: Message) -> Message:
        """``request``, whose answer must come within so many seconds; else ChannelBroken."""
        with self._clock.move_on_after(seconds):
            return await self.request(message)
        raise unanswered(self.peer, seconds)

    async def drop(self) -> None:
        """Close without a word to the peer.  Never waits, however stuck the peer is; idempotent.

        A task that is inside a send or a receive gets ChannelBroken.
        """
        await self._kill("it was dropped")

    def admit(
        self,
        *,
        peer: ServerId,
        incarnation: Incarnation,
        boot_id: str,
        purpose: Purpose,
        takes: int,
        accepts: int,
        answers_unknown: bool,
    ) -> None:
        """The handshake is done, say ``dial`` and ``accept``: the peer has a name, and bodies may come.

        ``takes`` and ``accepts`` are bytes: the largest body that the peer and this side let through.  An unknown
        type is answered where requests arrive; on a connection that this side dialled it is a broken reply.
        """
        self.peer = peer
        self.peer_incarnation = incarnation
        self.peer_boot_id = boot_id
        self.purpose = purpose
        self.max_frame_body = takes
        self._decoder.peer = peer
        self._decoder.max_body = accepts
        self._answers_unknown = answers_unknown

    def _check_alive(self) -> None:
        if self._dead:
            raise ChannelBroken(self.peer, self._dead)

    async def _decode_received(self) -> list[Frame]:
        """Decode what is held, and answer what cannot be understood."""
        frames: list[Frame] = []
        unknown: list[UnknownFrame] = []
        next_frame = self._decoder.next_frame
        try:
            while (frame := next_frame()) is not None:
                if isinstance(frame, Frame):
                    frames.append(frame)
                else:
                    unknown.append(frame)
        except ProtocolError as error:
            await self._kill(error.reason)
            raise
        if frames or unknown:
            self._frame_deadline = None
        if unknown:
            await self._answer(unknown)
        return frames

    async def _answer(self, unknown: list[UnknownFrame]) -> None:
        if not self._answers_unknown:
            await self._kill("the peer sent an unknown message type")
            raise ProtocolError(self.peer, f"it sent a message of unknown type {unknown[0].message_type}")
        await self.send_frames(
            b"".join([encode_frame(Unsupported(frame.message_type), request_id=frame.request_id) for frame in unknown])
        )

    async def _receive_some(self) -> bytes | bytearray:
        try:
            if self._decoder.mid_frame:
                data = await self._receive_rest()
            else:
                data = await self._stream.receive_some()
        except _CONNECTION_ERRORS as error:
            await self._break(f"receiving failed: {_describe(error)}", error)
        except BaseException:
            await self._kill("a receive was cut off midway")
            raise
        if data is None:
            await self._break(f"a frame did not arrive whole within {self._frame_timeout} s")
        if not data:
            cut = " in the middle of a frame" if self._decoder.mid_frame else ""
            await self._break(f"the peer closed it{cut}")
        return data

    async def _receive_rest(self) -> bytes | bytearray | None:
        """More of the frame that began to arrive, or None when its deadline has passed.

        The deadline is the whole frame's, not this piece's: a byte now and then does not move it.
        """
        if self._frame_deadline is None:
            self._frame_deadline = self._clock.now() + self._frame_timeout
        with self._clock.move_on_at(self._frame_deadline):
            return await self._stream.receive_some(self._decoder.wanted or REST_BYTES)
        return None

    async def _break(self, reason: str, cause: Exception | None = None) -> NoReturn:
        # The first reason is the true one: what fails after a drop fails because of it.
        reason = self._dead or reason
        await self._kill(reason)
        raise ChannelBroken(self.peer, reason) from cause

    async def _kill(self, reason: str) -> None:
        self._dead = self._dead or reason
        self._received.clear()
        with suppress(*_CONNECTION_ERRORS):  # It is gone either way.
            # Shielded, though it never waits: in a cancelled task it would raise Cancelled, and whatever is on its way
            # through the caller's cleanup, Ctrl-C say, would be lost to that.
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)


async def dial(
    transport: Transport,
    address: str,
    handshake: Handshake,
    *,
    receiver: ServerId,
    purpose: Purpose,
    environment: Environment,
    timeouts: Timeouts,
) -> Channel:
    """Connect to a server and shake hands, within ``dial_timeout`` altogether.

    Raises ChannelBroken (nobody there, which NobodyListens knows for certain, or no answer in time), HandshakeRefused
    and ProtocolError.  Cancelled, and after every error: the connection is closed.
    """
    peer = f"{receiver} at {address}"
    doing = "connecting"
    with environment.clock.move_on_after(timeouts.dial_timeout):
        try:
            stream = await transport.dial(address)
        except _CONNECTION_ERRORS as error:
            kind = NobodyListens if _is_refusal(error) else ChannelBroken
            raise kind(peer, f"connecting to {address} failed: {_describe(error)}") from error
        doing = "the handshake"
        channel = Channel(stream, peer=peer, environment=environment, timeouts=timeouts)
        try:
            hello = handshake.hello(receiver=receiver, purpose=purpose)
            reply = await channel.request(hello)
            if not isinstance(reply, HelloReply):
                raise ProtocolError(peer, f"it answered Hello with {type(reply).__name__}")
            handshake.judge_reply(reply, receiver=receiver)
        except BaseException:
            await channel.drop()
            raise
        channel.admit(
            peer=receiver,
            incarnation=reply.incarnation,
            boot_id=reply.boot_id,
            purpose=purpose,
            takes=reply.max_frame_body,
            accepts=hello.max_frame_body,
            answers_unknown=False,
        )
        channel.peer_role = reply.role
        return channel
    raise ChannelBroken(peer, f"{doing} took longer than {timeouts.dial_timeout} s")


async def accept(
    stream: trio.abc.Stream, handshake: Handshake, *, environment: Environment, timeouts: Timeouts
) -> Channel:
    """Shake hands on a connection that a peer opened, within ``dial_timeout``.

    Raises ChannelBroken, HandshakeRefused (the peer was told why) and ProtocolError.  Cancelled, and after every
    error: the stream is closed.
    """
    peer = _describe_stream(stream)
    channel = Channel(stream, peer=peer, environment=environment, timeouts=timeouts)
    with environment.clock.move_on_after(timeouts.dial_timeout):
        try:
            frame = await channel.receive()
            hello = frame.message
            if not isinstance(hello, Hello):
                raise ProtocolError(peer, f"it began with {type(hello).__name__} instead of Hello")
            reply = handshake.judge(hello)
            await channel.send(reply, request_id=frame.request_id)
            if not reply.accepted:
                # The host without its port, which is another one at each try: equal refusals have equal texts.
                host = peer.rpartition(":")[0]
                reason = f"{reply.refusal} (it dialled from {host})" if host else reply.refusal
                raise HandshakeRefused(hello.sender, reason, code=reply.refusal_code)
        except BaseException:
            await channel.drop()
            raise
        channel.admit(
            peer=hello.sender,
            incarnation=hello.incarnation,
            boot_id=hello.boot_id,
            purpose=Purpose(hello.purpose),
            takes=hello.max_frame_body,
            accepts=reply.max_frame_body,
            answers_unknown=True,
        )
        return channel
    raise ChannelBroken(peer, f"it did not complete the handshake within {timeouts.dial_timeout} s")


def _is_refusal(error: BaseException) -> bool:
    """Was the connection refused, at each address that the name has?  Trio says so in the cause."""
    found = leaves(error.__cause__) if error.__cause__ is not None else [error]
    return all(isinstance(leaf, ConnectionRefusedError) for leaf in found)


def _describe(error: BaseException) -> str:
    """What the operating system said, once; Trio's own errors often say it only in their cause."""
    found = leaves(error.__cause__) if error.__cause__ is not None else [error]
    texts = [
        os.strerror(leaf.errno) if isinstance(leaf, OSError) and leaf.errno else str(leaf) or type(error).__name__
        for leaf in found
    ]
    return ", ".join(dict.fromkeys(text.lower() for text in texts))


def _describe_stream(stream: trio.abc.Stream) -> str:
    if isinstance(stream, trio.SocketStream):
        try:
            name = stream.socket.getpeername()
        except OSError:
            return "a peer that has gone"
        if isinstance(name, tuple):
            return f"{name[0]}:{name[1]}"
    return getattr(stream, "peer_name", "") or "a peer that dialled"
