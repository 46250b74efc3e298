"""One start of a training: it alone has RUN, and RUN/exit.json says how it ended.

    with one_start(run_dir, accelerator):
        ...

Launchers turn every exit code of a rank into 1; exit.json holds ours, with a reason and the time.
Whatever restarts a training reads it: a start removes it first, so that what is there is of the
last one, and a training that was killed leaves none. The rank that fails first writes it and prints
the message; the others, whose connections break then, leave without one.
"""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from accelerate import Accelerator
from torch.distributed import DistError

from pipeline.cli import USER_ERROR
from pipeline.errors import DataError, warn
from pipeline.files import forget
from pipeline.out_of_memory import out_of_memory
from pipeline.owner import sole_writer
from pipeline.training.flags import EXIT
from pipeline.training.processes import Interrupted, first_on_main


@contextmanager
def one_start(run_dir: Path, accelerator: Accelerator) -> Iterator[None]:
    """Have RUN, made where absent, for the block; then write how it ended.

    Raises:
        DataError: another training has RUN, or nobody can write there.
        SystemExit: another rank has failed.
    """
    with ExitStack() as stack:

        def take() -> None:
            stack.enter_context(sole_writer(run_dir, "--run-dir"))
            forget(run_dir / EXIT)

        first_on_main(take, accelerator)
        try:
            yield
        except BaseException as error:
            code, reason, own = ending(error)
            # rank 0 told the others to leave
            told = isinstance(error, SystemExit) and not accelerator.is_main_process
            first = not told and note(run_dir, code, reason)
            if accelerator.num_processes == 1 or (first and own):
                raise
            if first:
                warn(f"another process of this training has ended ({error})")
            raise SystemExit(code) from None
        if accelerator.is_main_process:
            note(run_dir, 0, "done")


def ending(error: BaseException) -> tuple[int, str, bool]:
    """Return exit code and reason, and whether the error is this rank's own."""
    explained = out_of_memory(error) if isinstance(error, Exception) else error
    match explained:
        case DataError():
            return USER_ERROR, str(explained), True
        case SystemExit(code=int(code)):
            name = signal.Signals(code - 128).name if code > 128 else "exit"
            saved = isinstance(error.__context__, Interrupted) and error.__context__.saved
            return code, f"{name}: {'saved, then left' if saved else 'left, not saved'}", True
        case KeyboardInterrupt():
            return 130, "SIGINT: left, not saved", True
    if isinstance(error, OSError) and error.filename is not None:
        return USER_ERROR, str(error), True
    connection = isinstance(error, DistError) or "gloo" in str(error)
    return 1, f"{type(error).__name__}: {error}", not connection


def note(run_dir: Path, code: int, reason: str) -> bool:
    """Write RUN/exit.json; return False where another rank has."""
    time = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        with (run_dir / EXIT).open("x") as file:  # not renamed into place: one rank succeeds
            file.write(json.dumps({"code": code, "reason": reason, "time": time}) + "\n")
    except FileExistsError:
        return False
    except OSError as error:  # on another machine there may be no RUN
        if run_dir.is_dir():
            warn(f"{run_dir / EXIT} could not be written: {error}")
    return True
