"""The one exception for what a user, a file or a disk can cause, and the one way to warn.

A message says what is wrong, where, what was expected, what was found and what to do. The
commands print it without a traceback and leave with exit code 2 (see ``pipeline.cli``).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer


class DataError(Exception):
    """Input that cannot be used: damaged, missing, contradictory, or of another format.

    No ValueError, so that tyro does not turn it into a box of its own.
    """


def warn(message: str) -> None:
    """Print a message that does not end the command, on standard error."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


@contextmanager
def told_if_slow(message: str, seconds: float) -> Iterator[None]:
    """Warn with ``message`` while the block waits, where it takes longer than ``seconds``."""
    timer = Timer(seconds, warn, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
