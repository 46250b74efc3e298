"""The engine of a cluster: the same work on the same plan, as tasks of Ray (extra ``cluster``).

A task packs one shard and publishes it to the store. Ray repeats a task whose machine fails on any
other machine: the bytes are the same and replace the same names. Source and store must be
reachable under the same path or URL from every machine, and this package must be installed there.

    python -m pipeline.shards build --source /shared/ham10000 --out s3://bucket/ham10000 \
        --engine ray --address auto
"""

import importlib.util
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.errors import DataError
from pipeline.shards.packing.pack import Engine, PackWork, Receipt
from pipeline.shards.packing.shard_plan import ShardPlan

RETRIES = 5
"""Times that a shard is packed again when its worker or machine dies."""


def run_on_ray(address: str | None = None) -> Engine:
    """Return an engine on the Ray cluster at ``address`` (``auto``, ``ray://host:10001``).

    Without an address a cluster of this machine alone is started, and stopped at the end. Without
    Ray: a DataError.
    """
    if importlib.util.find_spec("ray") is None:
        raise DataError("--engine ray needs Ray: install the extra `cluster` (pip install ray)")

    def engine(work: PackWork, shards: Sequence[ShardPlan]) -> Iterator[Receipt]:
        import ray  # takes seconds, and only this engine needs it

        ours = not ray.is_initialized()
        if ours:
            _connect(ray, address)
        try:
            yield from _run(ray, work, shards)
        finally:
            if ours:
                ray.shutdown()

    return engine


def _connect(ray: Any, address: str | None) -> None:
    local = {} if address else {"include_dashboard": False}
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():  # fails at once where nobody listens; Ray tries two minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"no Ray cluster at {address}: {error}; is it running?") from error


def _run(ray: Any, work: PackWork, shards: Sequence[ShardPlan]) -> Iterator[Receipt]:
    """Yield receipts as tasks finish; at most two shards per core are in progress."""
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(PackWork.__call__)
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting, running = list(reversed(shards)), []
    while waiting or running:
        while waiting and len(running) < most:
            shard = waiting.pop()
            running.append(task.remote(work.part(shard), shard))
        done, running = ray.wait(running, num_returns=1)
        for reference in done:
            try:
                yield ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, DataError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayError as error:
                raise DataError(
                    f"a shard could not be packed in {RETRIES + 1} attempts: {error}; the same "
                    f"command continues from the complete shards"
                ) from error
