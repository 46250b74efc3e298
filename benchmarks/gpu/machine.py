"""What the machine is: GPU, driver, JPEG engines, versions; whether CUDA works at all."""

from benchmarks.gpu.plan import Plan
from benchmarks.gpu.worker import attempt, emit
from pipeline.machine import driver, info, jpeg_engines


def run(plan: Plan) -> None:
    """Print the machine's facts and its row.

    Raises:
        RuntimeError: there is no CUDA.
    """
    print(info(), flush=True)
    if plan.dry:
        emit("the GPU", status="needs CUDA")
        emit("DDP and shared batch norm on two GPUs", status="needs CUDA")
        return
    import torch

    torch.ones(1, device="cuda").sum().item()  # a driver that does not fit says so here
    name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    gib = round(memory / 2**30)
    attempt("the GPU", lambda: {"value": f"{name}, {gib} GiB, {driver_and_engines()}"})
    gpus = torch.cuda.device_count()
    note = "one GPU" if gpus == 1 else f"{gpus} GPUs: run pytest -m gpu"
    emit("DDP and shared batch norm on two GPUs", status="not verified", note=note)


def driver_and_engines() -> str:
    """Return both in words."""
    engines = jpeg_engines()
    words = "unknown number of" if engines is None else str(engines)
    return f"driver {driver() or 'unknown'}, {words} JPEG engines"
