"""How every command starts and fails: flags from a frozen dataclass, one message, exit code 2.

A command is a dataclass of flags in a module that imports no torch, so that ``--help`` and a typo
answer at once, and a function that takes them:

    COMMANDS = {"stats": Command("describe shards", "pipeline.shards.stats:StatsFlags",
                                 "pipeline.shards.stats:run")}
    dispatch(COMMANDS)                  # python -m pipeline.shards stats ...

Fields of the dataclass are the flags and the docstring under a field is its help. A field that is a
dataclass itself makes a heading of ``--help``; names stay flat (``--lr``). A ``DataError`` raised
below ``guard`` becomes ``error: ...`` on standard error and exit code 2, which is also what a
misspelt flag gets.
"""

import difflib
import importlib
import io
import logging
import math
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from pipeline.errors import DataError
from pipeline.out_of_memory import out_of_memory

USER_ERROR = 2
"""Exit code of a mistake that the user can correct."""

os.environ["MPLBACKEND"] = "Agg"  # matplotlib fails at import on a notebook's, if not installed

UNREPORTED = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "DO_NOT_TRACK": "1",
}
"""Variables that keep libraries from reporting their use; the user's environment overrides them."""

RANGES: dict[str, Callable[[float], bool]] = {
    "above 0": lambda value: 0 < value < math.inf,
    "0 or above": lambda value: 0 <= value < math.inf,
    "from 0 to 1": lambda value: 0 <= value <= 1,
    "from 0 to below 1": lambda value: 0 <= value < 1,
    "above 0 up to 1": lambda value: 0 < value <= 1,
}
"""What a value must be, in words, and whether it is."""

Flags = TypeVar("Flags")


@dataclass(frozen=True)
class Command:
    """One word of a program with sub-commands."""

    about: str
    """What it does, in a line."""
    flags: str
    """``module:Class`` of its flags; the module imports no torch."""
    run: str = ""
    """``module:function`` that is called with the flags; imported after they were read."""

    def call(self, flags: Any) -> None:
        """Run it."""
        _named(self.run)(flags)


def parse(flags: type[Flags], *, about: str = "", argv: Sequence[str] | None = None) -> Flags:
    """Return the command line as an instance of the frozen dataclass ``flags``.

    Boolean flags are ``--x / --no-x``; names use hyphens; ``--help`` shows every default. A value
    that a dataclass refuses in ``__post_init__`` ends the process with exit code 2. ``--help``
    begins with ``about``, or the dataclass's docstring; without ``argv``, the process's words are
    read.
    """
    try:
        return tyro.cli(
            flags,
            prog=_typed(argv),
            args=argv,
            description=about or flags.__doc__,
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
        )
    except DataError as error:
        fail(error)


def require_range(flags: object, what: str, *names: str) -> None:
    """Raise a DataError that names the first flag outside its range; None is always fine."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and not RANGES[what](value):
            raise DataError(f"--{name.replace('_', '-')} must be {what}, not {value}")


def choose(
    commands: Mapping[str, Command], *, default: str = "", argv: Sequence[str] | None = None
) -> tuple[str, Any]:
    """Return the sub-command of a command line and its flags.

    ``default`` is the command when the first word is none of them; "" refuses that.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    word = words[0] if words else ""
    if word in commands:
        words = words[1:]
    elif default:
        word = default
    elif word in ("", "-h", "--help"):
        print(f"usage: {_typed(words)} COMMAND ...; COMMAND --help lists its flags\n")
        print("\n".join(f"  {name:<11} {command.about}" for name, command in commands.items()))
        raise SystemExit(0)
    else:
        near = difflib.get_close_matches(word, commands, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        fail(DataError(f"no command {word!r}; {hint}there are {', '.join(commands)}"))
    command = commands[word]
    about = f"{command.about[0].upper()}{command.about[1:]}."
    if word == default:
        others = "|".join(name for name in commands if name != default)
        about += f" Other uses: {_typed(words)} {others} --help"
    return word, parse(_named(command.flags), about=about, argv=words)


def dispatch(commands: Mapping[str, Command], argv: Sequence[str] | None = None) -> None:
    """Run the sub-command that the command line names."""
    word, flags = choose(commands, argv=argv)
    guard(lambda: commands[word].call(flags))


def _named(where: str) -> Any:
    """Return what ``module:name`` names."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


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

    An error that means that memory ran out, or a file that cannot be used, becomes a message with
    advice and exit code 2 too. A closed pipe on standard output is exit code 1. SIGTERM unwinds as
    Ctrl-C does, exit code 143.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if isinstance(sys.stdout, io.TextIOWrapper):  # no name of a file may end the command
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()  # so that a closed pipe is noticed here, not at exit
    except DataError as error:
        fail(error)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of the output is gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (MemoryError, OSError, RuntimeError) as error:
        explained = out_of_memory(error)
        if explained is not error:
            fail(explained)
        if not isinstance(error, OSError) or error.filename is None:
            raise
        name = os.fsdecode(error.filename)
        advice = "check the path, its permissions and the free space"
        fail(DataError(f"{name}: {error.strerror}; {advice}"))
    except UnicodeEncodeError as error:  # of a library that takes UTF-8 alone
        if not any("\udc80" <= letter <= "\udcff" for letter in str(error.object)):
            raise
        advice = "rename the file or folder"
        fail(DataError(f"a name that is not UTF-8 cannot be used here: {error.object}; {advice}"))


def prepare_process() -> None:
    """Set what libraries read of the environment, and let any name be printed.

    A container's user without a home, whom some libraries refuse, gets one in the temporary folder.
    """
    for name, value in UNREPORTED.items():
        os.environ.setdefault(name, value)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no cache folder is no news
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may not be in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        Path.home()
    except RuntimeError:
        with suppress(OSError):
            home = Path(tempfile.gettempdir()) / f"dermpipe-{os.getuid()}"
            home.mkdir(mode=0o700, exist_ok=True)
            if home.lstat().st_uid == os.getuid():
                os.environ["HOME"] = str(home)


def fail(error: Exception) -> NoReturn:
    """Print ``error`` and exit with code 2."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    raise SystemExit(USER_ERROR)


prepare_process()
