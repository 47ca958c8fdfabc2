"""Servers that end with the tests that started them, whatever ends the tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stopped_by(*command: object) -> Iterator[None]:
    """Run a command when the block is left, and also if this process is killed inside.

    A process of its own waits for the end of a pipe, which comes in both cases.
    """
    waits = ["sh", "-c", 'cat >/dev/null; exec "$@"', "sh", *map(str, command)]
    with subprocess.Popen(waits, stdin=subprocess.PIPE, start_new_session=True) as stopping:
        try:
            yield
        finally:
            stopping.communicate()
    if stopping.returncode:
        raise subprocess.CalledProcessError(stopping.returncode, waits)
