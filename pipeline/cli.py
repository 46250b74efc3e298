"""How every command starts and fails: flags from a frozen dataclass, one message, exit code 2.

A command module defines a frozen dataclass whose fields are its flags (the docstring under a
field is its help) and calls ``parse(Options)`` inside ``guard(main)``. A ``DataError`` raised
below becomes ``error: ...`` on standard error and exit code 2, which is also what tyro gives a
misspelt flag.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from pipeline.errors import DataError
from pipeline.out_of_memory import out_of_memory

USER_ERROR = 2
"""Exit code of a mistake that the user can mend."""

Options = TypeVar("Options")


def parse(
    options: type[Options], *, description: str, argv: Sequence[str] | None = None
) -> Options:
    """Return the flags as an instance of the frozen dataclass ``options``.

    Boolean flags are ``--x / --no-x``; names use hyphens; ``--help`` shows every default. A value
    that a dataclass refuses in ``__post_init__`` ends the process with exit code 2.

    Args:
        options: the dataclass whose fields are the flags.
        description: what ``--help`` says first.
        argv: the words to read; those of the process when None.
    """
    try:
        return tyro.cli(
            options,
            prog=_typed(argv),
            args=argv,
            description=description,
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
        )
    except DataError as error:
        fail(error)
        raise  # not reached: fail() leaves


def _typed(argv: Sequence[str] | None) -> str:
    """Return the command as it was typed, up to its flags, for the usage line."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = (
        f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
    )
    given = len(sys.argv) - 1 - len(argv) if argv is not None else 0
    return " ".join([name, *sys.argv[1 : 1 + max(given, 0)]])


def guard(main: Callable[[], None]) -> None:
    """Run ``main``; a ``DataError`` becomes one message and exit code 2, Ctrl-C exit code 130.

    So does an error which says that memory ran out, with what to do about it.
    """
    try:
        main()
    except DataError as error:
        fail(error)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (MemoryError, OSError, RuntimeError) as error:
        explained = out_of_memory(error)
        if explained is error:
            raise
        fail(explained)


def fail(error: Exception) -> None:
    """Print ``error`` for a person and leave with exit code 2."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    raise SystemExit(USER_ERROR)
