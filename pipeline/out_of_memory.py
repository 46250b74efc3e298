"""What to do when memory runs out: four kinds of it, told apart by what the libraries say.

    raise out_of_memory(error) from error

GPU memory, page-locked memory, shared memory (/dev/shm) and main memory run out for different
reasons and want different remedies. An error that only mentions memory ("an illegal memory access
was encountered") is none of them and comes back as it is. Nothing here imports torch.
"""

from dataclasses import dataclass

from pipeline.errors import DataError


@dataclass(frozen=True)
class _Kind:
    """One kind of memory."""

    name: str
    says: tuple[str, ...]  # what libraries say when it has run out, in lower case
    advice: str


_KINDS = (
    _Kind(
        "shared memory (/dev/shm)",
        ("/dev/shm", "shared memory(shm)", "shared memory segment", "out of shared memory"),
        "nothing that loads or packs here keeps data in it, but NCCL does where one machine has "
        "several GPUs, and Ray does: start the container with --ipc=host or --shm-size=1g, remove "
        "what dead processes left in /dev/shm, or set NCCL_SHM_DISABLE=1 (slower).",
    ),
    _Kind(
        "page-locked memory",
        ("bytes on host.", "pinned memory", "pinned gpu memory", "page-locked", "cudahostalloc"),
        "this is main memory that the GPU copies from: raise the limit (`ulimit -l`; docker run "
        "--ulimit memlock=-1), use a smaller --batch-size or --image-size, or fewer processes on "
        "this machine.",
    ),
    _Kind(
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
    _Kind(
        "main memory",
        ("can't allocate memory", "cannot allocate memory", "std::bad_alloc"),
        "use a smaller --batch-size or --image-size, fewer processes or --threads on this machine, "
        "or a container with a higher limit; see with `free -h` what else holds it.",
    ),
)


def out_of_memory(error: Exception) -> Exception:
    """Return the DataError that says what to do if ``error`` means that memory ran out.

    Any other error is returned as it is.
    """
    said = str(error).lower()
    for kind in _KINDS:
        if any(phrase in said for phrase in kind.says):
            return _explained(kind, error)
    if isinstance(error, MemoryError):
        return _explained(_KINDS[-1], error)
    return error


def _explained(kind: _Kind, error: Exception) -> DataError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(each in line.lower() for each in kind.says)]
    words = (telling or lines or [type(error).__name__])[0]
    return DataError(f"out of {kind.name}: {kind.advice} The library said: {words}")
