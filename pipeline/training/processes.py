"""Rank, device, precision, threads, signals of this process.

accelerator = make_accelerator("auto")
threads = set_threads(0, accelerator)
"""

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from pipeline.cli import USER_ERROR
from pipeline.errors import DataError
from pipeline.machine import bf16_cpu, cores
from pipeline.owner import sole_writer
from pipeline.training.state import Arriving

T = TypeVar("T")

COLLECTIVE_PATIENCE = timedelta(hours=12)
"""How long ranks wait for each other: one may fetch and hash all shards. The watchdog ends a rank
that hangs long before."""

REPEATS = 10.0
"""Seconds for which another SIGTERM is taken for the first: a scheduler, a launcher and the kernel
(when the launcher dies) may each send one."""


def make_accelerator(mixed_precision: str = "auto") -> Accelerator:
    """Return the Accelerator for this launch, whatever started it; "no" is float32, never TF32.

    ``cpu=True`` where there is no CUDA: without it each of several CPU processes would be rank 0,
    and all would write. DataError: the precision is not available, or the launcher's processes do
    not form a group.
    """
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # Accelerate's
    on_cpu = not torch.cuda.is_available()
    join_after_restart(on_cpu=on_cpu)
    try:
        accelerator = Accelerator(
            cpu=on_cpu,
            mixed_precision=choose_precision(mixed_precision, on_cpu=on_cpu),
            kwargs_handlers=[
                # each rank's batch-norm statistics are its own: ``broadcast_statistics``
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=COLLECTIVE_PATIENCE),
            ],
        )
    except ValueError as error:
        raise DataError(f"--mixed-precision {mixed_precision}: {error}") from error
    if accelerator.mixed_precision == "no":  # torch takes TF32 for convolutions on a GPU
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    # cuDNN chooses by timing, once a shape, so bits may differ from start to start
    torch.backends.cudnn.benchmark = True
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise DataError(
            f"the launcher started {launched} processes, but each sees "
            f"{accelerator.num_processes}; on a machine without GPUs start several with "
            "accelerate launch --multi_gpu --num_processes N"
        )
    return accelerator


def join_after_restart(*, on_cpu: bool) -> None:
    """After a restart by the launcher, join the process group under keys of this attempt.

    The launcher's store survives a restart (with its static rendezvous) and still holds the
    addresses of the ranks that died; without a prefix a fast rank would connect to those.
    """
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if attempt == 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    if not on_cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False)
    distributed.init_process_group(
        "gloo" if on_cpu else "nccl",
        store=PrefixStore(f"attempt-{attempt}", store),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=COLLECTIVE_PATIENCE,
    )


def choose_precision(flag: str, *, on_cpu: bool) -> str:
    """Return "no", "bf16" or "fp16": the flag, else the launcher's, else bf16 if supported."""
    if flag != "auto":
        return flag
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launcher != "no":
        return launcher
    if on_cpu:
        return "bf16" if bf16_cpu() else "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def set_threads(wanted: int, accelerator: Accelerator) -> int:
    """Set torch's CPU threads in this process and return their number.

    The launcher exports OMP_NUM_THREADS=1, with which a CPU training would use one core.
    ``wanted`` is threads per process; 0: the usable cores, shared among local processes.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(accelerator.num_processes)))
    threads = wanted or max(1, cores() // local)
    torch.set_num_threads(threads)
    return threads


def from_main(value: T, accelerator: Accelerator) -> T:
    """Return rank 0's ``value`` on every rank (pickled; forces a GPU sync)."""
    if accelerator.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]


def first_on_main(work: Callable[[], T], accelerator: Accelerator) -> T:
    """Do ``work`` on rank 0 and return its result on every rank (pickled).

    Raises:
        DataError: of the work, on rank 0.
        SystemExit: on the others then, without a word of theirs.
    """
    value, refused = None, None
    if accelerator.is_main_process:
        try:
            value = work()
        except DataError as error:
            refused = error
    value, failed = from_main((value, refused is not None), accelerator)
    if failed:
        raise refused or SystemExit(USER_ERROR)
    return value  # type: ignore[return-value]


@contextmanager
def one_writer(folder: Path, flag: str, accelerator: Accelerator) -> Iterator[None]:
    """Let this launch alone write to ``folder``, named by ``flag``; rank 0 holds it for all.

    Raises:
        DataError: another process writes there, or nobody can; on rank 0.
        SystemExit: on the others then.
    """
    with ExitStack() as stack:
        first_on_main(lambda: stack.enter_context(sole_writer(folder, flag)), accelerator)
        yield


class Interrupted(Exception):  # noqa: N818 - not an error
    """All ranks are to save and leave, because one of them received a signal."""

    saved = False


class Interruption:
    """Records SIGTERM and Ctrl-C, so that the loop can save and leave after a whole step.

    A second Ctrl-C, and a second SIGTERM later than ``REPEATS``, ends the process at once.
    """

    def __init__(self) -> None:
        """Install the handlers."""
        self.received, self.first = 0, 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.first = self.first or time.monotonic()
        self.received, late = number, time.monotonic() - self.first > REPEATS
        if number == signal.SIGINT or late:
            signal.signal(number, signal.SIG_DFL)
        if late:
            signal.raise_signal(number)

    @property
    def exit_code(self) -> int:
        """143 after SIGTERM, 130 after Ctrl-C (128 + the signal's number)."""
        return 128 + self.received


def agreed(flags: list[int], accelerator: Accelerator) -> list[int]:
    """Return the largest of each flag over all ranks (a collective; forces a GPU sync)."""
    if accelerator.num_processes == 1:
        return flags
    tensor = torch.tensor(flags, device=accelerator.device)
    distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
    return tensor.tolist()


class Agreement:
    """``agreed`` for the hot loop: on GPUs the answer to a question comes with the next one."""

    def __init__(self, accelerator: Accelerator, *, late: bool | None = None) -> None:
        """Ask the ranks of ``accelerator``; ``late``: answer with the next question."""
        self.accelerator, on_gpu = accelerator, accelerator.device.type == "cuda"
        self.late = on_gpu if late is None else late
        self.asked: Arriving | None = None
        """The last question's answer on its way to the host; None drops it, on every rank."""

    def ask(self, *flags: int) -> list[int]:
        """Return the largest of each flag over all ranks; of the question before, if late.

        A collective: every rank asks as many questions. No rank's host waits for a GPU's work.
        """
        if self.accelerator.num_processes == 1 or not self.late:
            return agreed([*flags], self.accelerator)
        device = self.accelerator.device
        question = torch.tensor(flags, pin_memory=device.type == "cuda")
        largest = question.to(device, non_blocking=True)
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        before, self.asked = self.asked, Arriving(largest)
        return before.tolist() if before else [0] * len(flags)
