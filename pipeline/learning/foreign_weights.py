"""Weights from a file: found by the names of the network's own tensors, and loaded.

    line = load_from(Path("w.pth"), model, head="fc", arch="resnet34")

Read are .safetensors and what ``torch.save`` wrote: a state dict, a checkpoint that holds one
(of torchvision, timm, Lightning, DDP, torch.compile, an average), or a whole pickled network.
Nothing in a file is executed: a class that is no tensor is read as an ``Inert`` object. Every
tensor except those of the last layer must be there, in the network's shape.
"""

import contextlib
import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.errors import DataError

WEIGHTS = "model.safetensors"
"""The weights of a stored model, in its folder."""

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
"""Of files of weights, where a folder holds one."""

WRAPPERS = re.compile(r"\b_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
"""Parts that torch.compile, FSDP and activation checkpointing put into names."""

OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
"""Names in torchvision's files of DenseNet; the network's own lack the second dot."""

AVERAGED = re.compile(r"(^|[._ ])(ema|averaged?)([._ ]|$)")
"""In the place of a moving average of the weights, which is preferred."""

DICTIONARY = re.compile(r"dict|cfgnode|munch|box", re.IGNORECASE)
"""In the names of classes that are pickled as dictionaries are."""

LEGACY_PICKLES, DEEPEST = 5, 6
"""Pickles at the start of a file of torch before 1.6; levels of containers that are searched."""


class Inert:
    """Stands for an object of any class in a pickle: keeps its state and does nothing."""

    def __init__(self, *_: Any) -> None:
        """Ignore what the class would be made with."""
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        """Keep a state that is a dictionary."""
        self.state = state if isinstance(state, dict) else {}


class InertDictionary:
    """Stands for a dictionary of any class."""

    def __new__(cls, *_: Any) -> Any:
        """Return an empty one."""
        return OrderedDict()


def load_from(path: Path, model: nn.Module, *, head: str, arch: str) -> str:
    """Load the weights at ``path`` as ``fit`` does, and return a line that says what was taken."""
    file = weights_file(path)
    return f"weights: {fit(model, read(file), source=file, head=head, arch=arch)}"


def fit(model: nn.Module, tree: Any, *, source: object, head: str, arch: str) -> str:
    """Load the network's tensors among those of ``tree``, and say in a line what was taken.

    A last layer (the module ``head``) of another shape leaves the network's own. Tensors of modules
    that the network lacks are left out; missing or unexpected ones are a DataError.
    """
    own, root = model.state_dict(), head.partition(".")[0]
    body = {k: v.shape for k, v in own.items() if not k.startswith(f"{head}.")}
    place, found = best_group(tree, body)
    if not found:
        raise DataError(
            f"{source}: none of its tensors is named as one of {arch}; expected, after a prefix, "
            f"{', '.join(list(body)[:3])}, ...; give the architecture that they were trained with"
        )
    rest = {k: v for k, v in found.items() if k not in body}
    taken, last = {k: found[k] for k in body if k in found}, last_layer(rest, own, head)
    modules = {name for name, _ in model.named_children()}
    strange = {k: v for k, v in rest.items() if k.partition(".")[0] in modules - {root}}
    kept = {k: v for k, v in own.items() if k not in body or k.endswith("num_batches_tracked")}
    load_whole(model, {**kept, **taken, **last, **strange}, source=source, arch=arch)
    left = sorted({k.partition(".")[0] for k in rest} - modules)
    return (
        f"{len(taken)} tensors of {source}{f', {place}' if place else ''}"
        + (f", and its last layer, {head}" if last else f"; the last layer, {head}, is new")
        + (f"; left out: {', '.join(left)}" if left else "")
    )


def load_whole(model: nn.Module, state: Mapping[str, Tensor], *, source: object, arch: str) -> None:
    """Load ``state``; names and shapes that are not the network's are a DataError."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # a line for what is missing, what is unexpected, each shape
        lines = [" ".join(line.split()) for line in str(error).splitlines()[1:6]]
        found = "; ".join(line if len(line) < 200 else f"{line[:190]} ..." for line in lines)
        raise DataError(
            f"{source}: these weights do not fit {arch}: {found}. "
            "Give the architecture that they were trained with, or other weights"
        ) from error


# -- files


def folders_of(path: Path) -> list[Path]:
    """Return where a stored model may lie, given its folder, RUN or RUN/best.

    A copy of RUN can lack the link RUN/best; the model's own folder is beside it.
    """
    run = path.parent if path.name == "best" else path
    return [path, path / "best", *sorted(run.glob("best-step-*"), reverse=True)]


def weights_file(path: Path) -> Path:
    """Return the file of weights at ``path``: itself, that of a stored model, or a folder's one.

    None, and several, are a DataError.
    """
    if path.is_file() and path.name != "best":
        return path
    stored = [folder / WEIGHTS for folder in folders_of(path) if (folder / WEIGHTS).is_file()]
    files = stored[:1] or [p for p in path.glob("*") if p.suffix in SUFFIXES]
    if len(files) == 1:
        return files[0]
    several = f"several files there ({', '.join(sorted(p.name for p in files)[:4])})"
    raise DataError(
        f"--weights {path}: {several if files else 'no such file'}; give a .safetensors or torch "
        "file, a stored model's folder (RUN/best), imagenet or none"
    )


def read(path: Path) -> Any:
    """Return what a file of weights holds, tensors on the CPU, other classes as ``Inert``.

    DataError: it cannot be read.
    """
    start = b""
    try:
        with path.open("rb") as file:
            start = file.read(64)
        if start[8:9] == b"{":
            return load_file(path)
        names = classes(path)
        stubs: Any = [(InertDictionary if DICTIONARY.search(n) else Inert, n) for n in names]
        with torch.serialization.safe_globals(stubs), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about versions of pickle
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of torch, safetensors, zipfile or pickle, of many kinds
        raise DataError(f"--weights {path}: {unreadable(start, error)}") from error


def classes(path: Path) -> set[str]:
    """Return the names of the classes and functions in a file's pickles; nothing is executed."""
    names: set[str] = set()
    with contextlib.ExitStack() as stack:
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            entries = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            pickles = [stack.enter_context(archive.open(name)) for name in entries]
        else:
            pickles = [stack.enter_context(path.open("rb"))] * LEGACY_PICKLES
        for pickled in pickles:
            for opcode, argument, _ in pickletools.genops(pickled):  # type: ignore[arg-type]
                if opcode.name == "GLOBAL":
                    module, _, name = str(argument).partition(" ")
                    renamed = NAME_MAPPING.get((module, name))  # torch's pickles name Python 2's
                    names.add(".".join(renamed or (IMPORT_MAPPING.get(module, module), name)))
    return names


def unreadable(start: bytes, error: Exception) -> str:
    """Return in words why a file that begins with ``start`` is no file of weights."""
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer in place of the file; run `git lfs pull` where it comes from"
    if start.lstrip().startswith(b"<"):
        return "a web page in place of the file; download it again"
    if "TorchScript" in str(error):
        return "a TorchScript program; save its state_dict() with torch.save, and give that"
    said = str(error).rpartition("WeightsUnpickler error: ")[2]
    lines = [line.partition(" Please use")[0] for line in said.splitlines()]
    said = next((x for x in lines if x and "weights_only" not in x), type(error).__name__)[:160]
    return f"cannot be read as weights ({said}); save a state_dict()"


# -- the network's tensors in it


def groups(tree: Any, place: str = "", depth: int = DEEPEST) -> Iterator[tuple[str, dict]]:
    """Yield the place and the tensors of every dictionary, and of a pickled network."""
    if isinstance(tree, Inert):
        tree = flat(tree) or tree.state
    if not isinstance(tree, Mapping) or not depth:
        return
    named = {
        WRAPPERS.sub("", OLD_DENSENET.sub(r"\1\2", name)): value
        for name, value in tree.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if named:
        yield place, named
    for name, value in tree.items():
        yield from groups(value, f"{place} {name}".strip(), depth - 1)


def flat(module: Inert) -> dict[str, Tensor]:
    """Return the state dict of a pickled network; {} for another object."""
    state = module.state
    hidden = state.get("_non_persistent_buffers_set", ())
    own = {**state.get("_parameters", {}), **state.get("_buffers", {})}
    named = {k: v for k, v in own.items() if isinstance(v, Tensor) and k not in hidden}
    for name, child in state.get("_modules", {}).items():
        if isinstance(child, Inert):
            named |= {f"{name}.{k}": v for k, v in flat(child).items()}
    return named


def best_group(tree: Any, body: Mapping[str, torch.Size]) -> tuple[str, dict[str, Tensor]]:
    """Return the group with most of the tensors of ``body`` (shapes by name), and its place.

    Of those with all of them, a moving average comes before others, the first before later ones.
    The place is an entry of the file and a prefix of the names, as "state_dict module.".
    """
    needed = {k: shape for k, shape in body.items() if not k.endswith("num_batches_tracked")}
    ends = [next(iter(needed)), next(reversed(needed))]
    best: tuple[tuple, str, dict[str, Tensor]] = ((False, False, 0), "", {})
    for place, named in groups(tree):
        both = [(k, end) for k in named for end in ends if f".{k}".endswith(f".{end}")]
        for stem in dict.fromkeys(k.removesuffix(end) for k, end in both):
            inside = {k.removeprefix(stem): v for k, v in named.items() if k.startswith(stem)}
            fitting = sum(k in inside and inside[k].shape == shape for k, shape in needed.items())
            where = f"{place} {stem}".strip()
            rank = (fitting == len(needed), bool(AVERAGED.search(where)), fitting)
            best = max(best, (rank, where, inside), key=lambda group: group[0])
    return best[1:]


def last_layer(
    rest: Mapping[str, Tensor], own: Mapping[str, Tensor], head: str
) -> dict[str, Tensor]:
    """Return the file's last layer under the network's names, {} where none has its shape.

    One inside a ``Sequential`` (fc.1.weight) counts, if it is the only one of that shape.
    """
    root = head.partition(".")[0]
    wanted = {k.removeprefix(head): v.shape for k, v in own.items() if k.startswith(f"{head}.")}
    fits = [
        stem
        for stem in sorted({k.rpartition(".")[0] for k in rest if f"{k}.".startswith(f"{root}.")})
        if all((t := rest.get(stem + k)) is not None and t.shape == s for k, s in wanted.items())
    ]
    stem = head if head in fits else fits[0] if len(fits) == 1 else None
    return {} if stem is None else {head + k: rest[stem + k] for k in wanted}
