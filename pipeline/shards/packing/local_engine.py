"""The engine of one machine: a pool of processes, each packing whole shards.

    receipts = run_here(workers=0)(work, plan.shards)

Workers come from a fork server, so they inherit neither threads nor open files of the building
process, and they end when it does, however it ends. At most two shards per worker are in progress,
and a worker gets the image locations of its shard alone, so its memory does not grow with the
source.
"""

import ctypes
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import wait as wait_for

from pipeline.errors import DataError
from pipeline.machine import cores
from pipeline.shards.packing.pack import Engine, PackWork, Receipt
from pipeline.shards.packing.shard_plan import ShardPlan

MOST_KEPT = 2**25
"""Bytes of free memory that a packing process keeps at most at the end of its heap."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def run_here(workers: int) -> Engine:
    """Return an engine with ``workers`` processes (0: one per core, 1: this process itself)."""
    if workers < 0:
        raise DataError(f"--workers is {workers}; expected 0 (one per core) or more")
    if (workers or cores()) > 1:  # it starts while the builder reads the source and plans
        multiprocessing.set_forkserver_preload([__name__])
        forkserver.ensure_running()

    def engine(work: PackWork, shards: Sequence[ShardPlan]) -> Iterator[Receipt]:
        count = min(workers or cores(), len(shards))
        return _in_pool(work, shards, count) if count > 1 else map(work, shards)

    return engine


def _in_pool(work: PackWork, shards: Sequence[ShardPlan], workers: int) -> Iterator[Receipt]:
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(workers, context, initializer=_start)
    pending: set[Future[Receipt]] = set()
    try:
        for shard in shards:
            if len(pending) >= 2 * workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            pending.add(pool.submit(work.part(shard), shard))
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        raise DataError(
            "a packing process was killed (out of memory?): the same command continues from the "
            "complete shards; --workers 1 or a smaller --samples-per-shard needs less memory"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def keep_memory() -> None:
    """Let this process keep the memory it frees, where the C library is glibc.

    By default glibc returns large blocks to the system at once, and the next image clears and maps
    its pages again: half a millisecond an image, a tenth of the work.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_THRESHOLD, MOST_KEPT)
        library.mallopt(_M_TRIM_THRESHOLD, MOST_KEPT)


def _start() -> None:
    keep_memory()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    """End this worker when the building process has ended; the pool itself would not."""
    wait_for([sentinel])
    os._exit(1)
