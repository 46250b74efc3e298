"""Advice for errors that mean that memory ran out, by the kind of memory.

    raise out_of_memory(error) from error

GPU memory, page-locked memory, shared memory (/dev/shm) and main memory are recognised by the words
of the library's message. Other errors that mention memory ("an illegal memory access was
encountered") are returned unchanged. Nothing here imports torch.
"""

from dataclasses import dataclass

from pipeline.errors import DataError


@dataclass(frozen=True)
class Kind:
    """One kind of memory."""

    name: str
    phrases: tuple[str, ...]  # parts of the libraries' messages, in lower case
    advice: str


KINDS = (
    Kind(
        "shared memory (/dev/shm)",
        ("/dev/shm", "shared memory(shm)", "shared memory segment", "out of shared memory"),
        "NCCL uses it where one machine has several GPUs, and so does Ray: start the container "
        "with --ipc=host or --shm-size=1g, remove what dead processes left in /dev/shm, or set "
        "NCCL_SHM_DISABLE=1 (slower).",
    ),
    Kind(
        "page-locked memory",
        ("bytes on host.", "pinned memory", "pinned gpu memory", "page-locked", "cudahostalloc"),
        "this is main memory that the GPU copies from: raise the limit (`ulimit -l`; docker run "
        "--ulimit memlock=-1), use a smaller --batch-size or --image-size, or fewer processes on "
        "this machine.",
    ),
    Kind(
        "GPU memory",
        (
            *("cuda out of memory", "cuda error: out of memory", "cuda_error_out_of_memory"),
            *("cudaerrormemoryallocation", "cuda allocation failed", "bytes on device"),
            *("'out of memory'", "cudnn_status_alloc_failed", "cublas_status_alloc_failed"),
            "nvjpeg_status_allocator_failure",
        ),
        "use a smaller --batch-size (--accumulate makes up for it in training) or --image-size, or "
        "--backend portable, which decodes on the CPU; see with nvidia-smi whether another process "
        "holds the memory.",
    ),
    Kind(
        "main memory",
        ("can't allocate memory", "cannot allocate memory", "std::bad_alloc"),
        "use a smaller --batch-size or --image-size, fewer processes or --threads on this machine, "
        "or a container with a higher limit; see with `free -h` what else holds it.",
    ),
)


def out_of_memory(error: Exception) -> Exception:
    """Return the DataError that says what to do if ``error`` means out of memory, else itself."""
    message = str(error).lower()
    for kind in KINDS:
        if any(phrase in message for phrase in kind.phrases):
            return _explained(kind, error)
    if isinstance(error, MemoryError):
        return _explained(KINDS[-1], error)
    return error


def _explained(kind: Kind, error: Exception) -> DataError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(phrase in line.lower() for phrase in kind.phrases)]
    words = (telling or lines or [type(error).__name__])[0]
    return DataError(f"out of {kind.name}: {kind.advice} The library said: {words}")
