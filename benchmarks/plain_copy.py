"""What a machine can do without any library, to compare with: a synced file, and a file sent to another process.

``synced_rate`` writes a file in pieces and syncs each, like a log does.  ``copy_rate`` is the plain way to bring a
file to another server: one process reads it and writes it to a socket, another reads the socket and writes a file,
which it syncs at the end.  Run as a program, this is one of the two processes.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BLOCK_BYTES = 1 << 20


def make_file(path: Path, size: int) -> None:
    """A file of random bytes, on the disk when this returns."""
    block = os.urandom(BLOCK_BYTES)
    with path.open("wb") as file:
        for offset in range(0, size, BLOCK_BYTES):
            file.write(block[: size - offset])
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def held_memory(size: int) -> Iterator[None]:
    """Another process touches so much memory, and gives it back when the block ends.

    On a virtual machine memory that was free for seconds may have been returned to the host, and the first touch of
    each page then costs several times what writing it does.  Whatever is compared begins right after such a block.
    """
    touch = f"import sys; memory = bytearray({size}); memory[::4096] = bytes(len(memory[::4096])); print('touched')"
    wait = "sys.stdout.flush(); sys.stdin.read()"
    command = [sys.executable, "-c", f"{touch}; {wait}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as holder:
        try:
            _first_word(holder)
            yield
        finally:
            holder.kill()


def synced_rate(path: Path, size: int, *, piece_bytes: int) -> float:
    """Bytes per second of a new file of this size that is synced after each piece; the file is removed."""
    piece = os.urandom(piece_bytes)
    with path.open("wb", buffering=0) as file:
        began = time.monotonic()
        for offset in range(0, size, piece_bytes):
            file.write(piece[: size - offset])
            os.fdatasync(file.fileno())
        seconds = time.monotonic() - began
    path.unlink()
    return size / seconds


def copy_rate(source: Path, target: Path) -> float:
    """Bytes per second from one process to another, from the first byte to the sync; the target is removed."""
    size = source.stat().st_size
    receiver = _start("receive", str(target))
    try:
        port = _first_word(receiver)
        sender = _start("send", str(source), port)
        try:
            seconds = float(_first_word(receiver))
        finally:
            _end(sender)
    finally:
        _end(receiver)
        target.unlink(missing_ok=True)
    return size / seconds


def _start(*arguments: str) -> "subprocess.Popen[bytes]":
    # A process group of its own: the terminal's Ctrl-C is for the program that started this one.
    return subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, process_group=0)


def _first_word(process: "subprocess.Popen[bytes]") -> str:
    if process.stdout is None:
        raise AssertionError("the process was started with a pipe for its output")
    line = process.stdout.readline().decode()
    if not line:
        raise OSError("a process of the plain copy, or one that held memory for it, ended too early")
    return line.strip()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


# ------------------------------------------------------------------------------------------- the two processes


def send(source: Path, port: int) -> None:
    """Read the file and write it to the socket."""
    with source.open("rb", buffering=0) as file, socket.create_connection(("127.0.0.1", port)) as connection:
        while block := file.read(BLOCK_BYTES):
            connection.sendall(block)


def receive(target: Path) -> None:
    """Read the socket, write the file, sync it; say the port, and then the seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
    buffer = bytearray(BLOCK_BYTES)
    view = memoryview(buffer)
    with connection, target.open("wb", buffering=0) as file:
        began = time.monotonic()
        while received := connection.recv_into(buffer):
            file.write(view[:received])
        os.fdatasync(file.fileno())
        print(time.monotonic() - began, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        receive(Path(sys.argv[2]))
