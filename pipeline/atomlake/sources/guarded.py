"""Parsers of others, in a process of their own that may hang, die or ask for too much memory.

A file can say that it holds 10¹² atoms. What atomlake parses itself is bounded by the size of
the file, and SQLite can be interrupted; what another library parses runs here, where the operating
system enforces the limits: a timer that nothing in the process can hold up, and a bound on its
memory.
"""

from __future__ import annotations

import atexit
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, NamedTuple

from atomlake.errors import SetAside, SourceError
from atomlake.sources.base import Guard, Unreadable

#: A reader that parses fewer bytes in a second than this is taken to hang.
SLOWEST_READER = 100_000

#: As good as no limits.
UNLIMITED = Guard(seconds=1e8, nbytes=2**46)
#: The libraries under the parsers would reserve memory for a thread per core.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class _Message(NamedTuple):
    """What the process says: an item, or how the items end."""

    kind: Literal["item", "end", "error", "problem", "memory"]
    content: Any = None


def guarded(
    guard: Guard, location: str, function: Callable[..., Iterator[Any]], *arguments: Any
) -> Iterator[Any]:
    """Yield what ``function(*arguments)`` yields, computed in another process.

    Parameters
    ----------
    guard : Guard
        Time for each item and memory for all.
    location : str
        What is read.
    function : callable
        A generator function of a module, which that process imports.
    *arguments
        For the function; they are pickled.

    Raises
    ------
    SourceError
        As the function does.
    Unreadable
        As the function does; with the code ``malformed`` if it raises anything else,
        ``too_slow`` if an item takes too long, ``too_large`` if memory runs out,
        ``crashed_reader`` if the process dies.
    """
    seconds = seconds_for_item(guard, location)
    process = _Process.idle(guard.nbytes)
    is_at_its_end = False
    try:
        process.ask(seconds, function, arguments)
        while True:
            message = process.answer()
            if message.kind == "item":
                yield message.content
                continue
            is_at_its_end = True
            if message.kind == "end":
                return
            if message.kind == "error":
                raise SourceError(message.content)
            if message.kind == "problem":
                raise Unreadable(*message.content)
            raise Unreadable(
                "too_large",
                f"reading it takes more than {guard.nbytes / 1e9:,.1f} GB; correct the file, "
                "split it, or raise limits.reader_memory",
            )
    except EOFError:
        status = process.end()
        if status == -signal.SIGALRM:
            raise Unreadable("too_slow", too_slow(seconds)) from None
        raise Unreadable(
            "crashed_reader", f"the reader crashed ({_explain(status)}); correct the file"
        ) from None
    finally:
        if is_at_its_end:
            process.rest()
        else:
            process.end()


def at_once(
    function: Callable[..., Iterator[Any]], calls: Iterable[tuple[Any, ...]], n_processes: int
) -> Iterator[Any]:
    """Yield what the calls of ``function`` yield, made in several processes, in no certain order.

    For parsers of our own, without limits. What a process that fails or dies has not yielded is
    missing, and left to whoever asked.

    Parameters
    ----------
    function : callable
        A generator function of a module, which the processes import.
    calls : iterable of tuple
        Arguments of each call; they are pickled.
    n_processes : int
        Processes at a time.
    """
    waiting = iter(calls)
    processes = [_Process(UNLIMITED.nbytes) for _ in range(n_processes)]
    free = list(processes)
    busy: dict[Any, _Process] = {}
    try:
        while True:
            for process, arguments in zip(free, waiting, strict=False):
                with suppress(EOFError):
                    process.ask(UNLIMITED.seconds, function, arguments)
                busy[process.connection] = process
            free = []
            if not busy:
                return
            for connection in wait(list(busy)):
                try:
                    message = busy[connection].answer()
                except EOFError:
                    del busy[connection]
                    continue
                if message.kind == "item":
                    yield message.content
                else:
                    free.append(busy.pop(connection))
    finally:
        for process in processes:
            process.end(patience=0.0)


def seconds_for_item(guard: Guard, location: str) -> float:
    """Time for one structure, and for a file also that in which the slowest reader passes it."""
    try:
        nbytes = os.path.getsize(location)
    except OSError:
        nbytes = 0
    return guard.seconds + nbytes / SLOWEST_READER


def too_slow(seconds: float) -> str:
    """Say that a structure took longer than this."""
    return (
        f"the next structure was not read within {seconds:,.0f} s; correct the file, "
        "split it, or raise limits.seconds_per_structure"
    )


def _explain(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


class _Process:
    """A process that calls generator functions, one at a time."""

    _idle: list[_Process] = []  # noqa: RUF012

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *sys.path],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT},
            )
        self.connection = Connection(ours.detach())
        self.connection.send(nbytes)

    @classmethod
    def idle(cls, nbytes: int) -> _Process:
        """Return a process that waits, or a new one."""
        while cls._idle:
            process = cls._idle.pop()
            if process.nbytes == nbytes and process._process.poll() is None:
                return process
            process.end()
        return cls(nbytes)

    def ask(self, seconds: float, function: Callable[..., Any], arguments: Any) -> None:
        """Have a function called, with so much time for each of its items."""
        try:
            self.connection.send((seconds, function, arguments))
        except OSError:
            raise EOFError from None

    def answer(self) -> _Message:
        """Wait for the next message.

        Raises
        ------
        EOFError
            If the process has ended.
        """
        try:
            message: _Message = self.connection.recv()
        except OSError:
            raise EOFError from None
        return message

    def rest(self) -> None:
        """Keep the process for the next call."""
        self._idle.append(self)

    def end(self, patience: float = 0.5) -> int:
        """End the process, if it does not end by itself in some seconds, and return its status."""
        self.connection.close()
        if self._process.poll() is None:
            # What has ended by itself has closed the connection and is about to be gone.
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()


@atexit.register
def _end_all() -> None:
    for process in _Process._idle:
        process.end()


# ----- In the other process

_PROGRAM = """
import sys
sys.path[:] = sys.argv[2:]
from atomlake.sources.guarded import serve
serve(int(sys.argv[1]))
"""


def serve(descriptor: int) -> None:
    """Answer what is asked on a connection, until it is closed."""
    connection = Connection(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_memory(connection.recv())
    while True:
        try:
            seconds, function, arguments = connection.recv()
        except EOFError:
            return
        for message in _messages(seconds, function, arguments):
            connection.send(message)


def _messages(seconds: float, function: Callable[..., Any], arguments: Any) -> Iterator[_Message]:
    try:
        # The timer ends the process, whatever it is doing, unless the item comes first.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        for item in function(*arguments):
            signal.setitimer(signal.ITIMER_REAL, 0)
            yield _Message("item", item)
            signal.setitimer(signal.ITIMER_REAL, seconds)
        message = _Message("end")
    except Unreadable as error:
        message = _Message("problem", error.problem)
    except SourceError as error:
        message = _Message("error", str(error))
    except MemoryError:
        message = _Message("memory")
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        message = _Message("problem", SetAside("malformed", problem))
    signal.setitimer(signal.ITIMER_REAL, 0)
    yield message


def _limit_memory(nbytes: int) -> None:
    """Allow so many bytes beyond what the process has with its libraries."""
    import ase.db
    import ase.io
    import ase.io.formats  # noqa: F401

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + nbytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
