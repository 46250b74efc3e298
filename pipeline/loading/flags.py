"""What can be chosen about loading besides ``presets.Augment`` and ``order.Balance``.

Imports no torch, so that ``--help`` answers at once.
"""

from typing import Literal

Backend = Literal["auto", "dali", "portable"]
"""``auto`` is DALI on a GPU, and the portable backend on a CPU, where it is three
times as fast as DALI's CPU operators (`python -m benchmarks.loader`)."""
