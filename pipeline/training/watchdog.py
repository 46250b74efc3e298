"""Ends a training that hangs: a rank that never comes back to its collective, a dead storage.

    watchdog = Watchdog(30, run_dir=..., rank=0)
    watchdog.start()
    watchdog.beat()     # a step, or a batch of a validation, is done

What hangs cannot save and leave. So every rank that saw no beat for so long prints the stacks of
its threads and, when all have had the time to, ends without clean-up; RUN/exit.json says why. The
same command goes on from the last checkpoint. Waiting for another rank is no beat, so all ranks
notice within a step of each other.
"""

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path

from pipeline.training.start import note

HUNG = 75
"""Exit code: a temporary failure, as in sysexits.h."""

GRACE = 5.0
"""Seconds between stacks and end: the other ranks notice too, and print theirs."""


class Watchdog:
    """Watches one rank, from a thread of its own."""

    def __init__(self, minutes: float, *, run_dir: Path, rank: int) -> None:
        """End this process ``minutes`` after its last beat; 0: never."""
        self.minutes, self.run_dir, self.rank = minutes, run_dir, rank
        self.beats, self.done = 0, threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        if self.minutes:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """Say that the training has moved on."""
        self.beats += 1

    def stop(self) -> None:
        """Watch no more."""
        self.done.set()

    def _watch(self) -> None:
        """Count the seconds without a beat; those for which the process was suspended are none."""
        limit = self.minutes * 60
        seen, silent, tick = self.beats, 0.0, min(1.0, limit / 4)
        while not self.done.wait(tick):
            seen, silent = self.beats, silent + tick if seen == self.beats else 0.0
            if silent >= limit:
                self._end()

    def _end(self) -> None:
        """Print the stacks, note the reason, end; what hangs may be the storage of RUN."""
        faulthandler.dump_traceback_later(2 * GRACE, exit=True)
        reason = f"hung: no step for {self.minutes:g} minutes (--watchdog-minutes)"
        print(f"rank {self.rank} {reason}; its threads:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        note(self.run_dir, HUNG, f"{reason}; the same command goes on from the last checkpoint")
        time.sleep(GRACE)
        os._exit(HUNG)
