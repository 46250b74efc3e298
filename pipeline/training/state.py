"""Everything that changes during training, in one place, so that a checkpoint holds all of it.

state = TrainingState(...)
saved = state.capture()      # every rank calls it; rank 0 writes the result
state.restore(saved)         # every rank calls it, with what rank 0 has read
"""

import random
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from pipeline.learning.learning_rate import Plateau
from pipeline.learning.optimizers import MovingAverage
from pipeline.training.history import Row


@dataclass
class Progress:
    """Position in the training, and results so far."""

    epoch: int = 0
    """Epochs trained and validated."""
    batch: int = 0
    """Batches per process trained on in the epoch after them."""
    position: int = 0
    """Samples of that epoch's order trained on, over all processes: where a resume goes on."""
    began_with: int = 0
    """Images of a global batch when that epoch began."""
    step: int = 0
    """Optimizer steps taken."""
    samples: int = 0
    """Images trained on, over all processes and epochs."""
    best_auc: float = -1.0
    """Highest validation ROC-AUC; -1 before the first."""
    best_epoch: int = 0
    """The epoch that reached it, counted from 1."""
    threshold: float = 0.5
    """Fitted at the last validation."""
    temperature: float = 1.0
    """Fitted at the last validation."""
    bias: float = 0.0
    """Fitted at the last validation."""
    plateau: Plateau = field(default_factory=Plateau)
    """Of the learning rate."""
    history: list[Row] = field(default_factory=list)
    """Rows of history.csv."""
    timing: list[Row] = field(default_factory=list)
    """Rows of timing.csv."""
    points: list[Row] = field(default_factory=list)
    """The latest points for the tracker; values may still be added to the last one."""
    losses: list[float] = field(default_factory=list)
    """Means of the losses read since the last tracked point."""
    wandb_id: str = ""
    """Of the W&B run."""
    launches: list[Row] = field(default_factory=list)
    """A row where the number of processes or the batch size became another: RUN/config.json."""

    def advance(self, to: int) -> int:
        """Move on to a position of the epoch's order; return the number of images since."""
        images, self.position = to - self.position, to
        self.samples += images
        return images

    def note_launch(self, processes: int, batch_size: int) -> None:
        """Note a start with another number of processes or another batch size than before."""
        launch = {"processes": processes, "batch_size": batch_size}
        before = self.launches[-1] if self.launches else {}
        if launch.items() - before.items():
            where = {"epoch": self.epoch, "position": self.position, "step": self.step}
            self.launches.append({**where, **launch})


@dataclass
class TrainingState:
    """The objects that hold the state."""

    accelerator: Accelerator
    model: nn.Module
    """The network itself."""
    network: nn.Module
    """What the forward pass of training goes through: the network, in DDP on several ranks."""
    average: MovingAverage | None
    optimizer: Any
    """As ``accelerator.prepare`` returned it; a wrapper of torch's."""
    sums: Tensor
    """float64 [4] on the device, of this rank and epoch: weighted loss, weight, right, seen."""
    progress: Progress = field(default_factory=Progress)

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept: the average where there is one."""
        return self.average.model if self.average else self.model

    def begin_epoch(self, seed: int) -> None:
        """Start the sums and the random numbers of an epoch; the latter differ by rank."""
        self.seed_rank(seed, self.progress.epoch)
        self.sums.zero_()

    def seed_rank(self, *numbers: int) -> None:
        """Seed this rank's random numbers with ``numbers``."""
        sequence = np.random.SeedSequence([*numbers, self.accelerator.process_index])
        seed_all(int(sequence.generate_state(1)[0]))

    def count(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch (logits [B, K], classes [B]) to the sums of right answers and samples."""
        self.sums[2] += (logits.argmax(1) == target).sum()
        self.sums[3] += len(logits)

    def broadcast_statistics(self) -> None:
        """Give every rank the batch-norm statistics of rank 0, which are the ones that are kept.

        Not their mean: a checkpoint has those of rank 0 alone, and a resume must not show.
        """
        if self.accelerator.num_processes > 1:
            for buffer in self.judged.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def finite(self) -> bool:
        """Say whether all weights and statistics are finite numbers (forces a GPU sync)."""
        tensors = [*self.model.state_dict().values(), *self.judged.state_dict().values()]
        return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())

    def capture(self) -> dict[str, Any]:
        """Return a copy, on the CPU, of what a resume needs; a collective, complete on every rank.

        Forces a GPU sync.
        """
        own = {"rng": random_state(), "sums": self.sums.tolist()}
        scaler = self.accelerator.scaler
        captured = {
            "progress": asdict(self.progress),
            "model": dict(self.model.state_dict()) if self.average else None,
            "average": dict(self.judged.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "ranks": gather_object([own]),
        }
        if self.accelerator.is_main_process:  # the others write nothing
            captured = copied(captured)
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        return captured

    def restore(self, saved: dict[str, Any], seed: int) -> None:
        """Take over what ``capture`` returned.

        On another number of processes rank 0 has the sums of all, and each rank draws random
        numbers (of dropout) that depend on ``seed`` and the position.
        """
        values = saved["progress"]
        names = {f.name for f in fields(Progress)}
        kept = {k: v for k, v in values.items() if k in names and k != "plateau"}
        self.progress = Progress(**kept, plateau=Plateau(**values["plateau"]))
        self.model.load_state_dict(saved["model"] or saved["average"])
        if self.average:
            self.average.model.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.accelerator.scaler and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        ranks, rank = saved["ranks"], self.accelerator.process_index
        sums = torch.tensor([each["sums"] for each in ranks], dtype=torch.float64)
        if len(ranks) == self.accelerator.num_processes:
            set_random_state(ranks[rank]["rng"])
            self.sums.copy_(sums[rank])
        else:
            self.seed_rank(seed, self.progress.epoch, self.progress.position)
            self.sums.copy_(sums.sum(0) if rank == 0 else torch.zeros(4))


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def copied(value: Any) -> Any:
    """Return ``value`` with the tensors copied to the CPU; of a GPU they arrive at a sync."""
    match value:
        case Tensor():
            # page-locked memory, which torch keeps: copies at the speed of the bus
            copy = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
            return copy.copy_(value.detach(), non_blocking=True)
        case dict():
            return {name: copied(each) for name, each in value.items()}
        case list():
            return [copied(each) for each in value]
    return value


class Arriving:
    """A copy of a tensor on its way to the host; only reading it waits."""

    def __init__(self, tensor: Tensor) -> None:
        """Begin to copy."""
        self.copy, self.arrived = copied(tensor), torch.cuda.Event() if tensor.is_cuda else None
        if self.arrived:
            self.arrived.record()

    def tolist(self) -> Any:
        """Return the values, once they are there."""
        if self.arrived:
            self.arrived.synchronize()
        return self.copy.tolist()


def random_state() -> dict[str, Any]:
    """Return the states of torch's generators, as tensors."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def set_random_state(saved: dict[str, Any]) -> None:
    """Restore what ``random_state`` returned."""
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])
