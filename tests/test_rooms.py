"""The house's walls: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "pipeline/ham10000": ("torch", "nvidia", "pipeline.shards", "pipeline.loading"),
    "pipeline/shards": ("torch", "nvidia", "pipeline.loading", "pipeline.learning"),
    "pipeline/loading": ("wandb", "pipeline.learning", "pipeline.evaluation"),
    "pipeline/learning": ("pipeline.loading", "pipeline.shards", "nvidia"),
    "pipeline/evaluation": ("torch", "nvidia", "pipeline.loading", "pipeline.learning"),
}


def imported_names(path: Path) -> set[str]:
    """Every module that the file imports, at any depth of nesting."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_knows_only_the_rooms_before_it(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        for name in imported_names(path):
            broken = [f for f in FORBIDDEN[room] if name == f or name.startswith(f + ".")]
            assert not broken, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("room", ["pipeline.ham10000", "pipeline.shards"])
def test_packing_rooms_bring_neither_torch_nor_dali(room: str) -> None:
    code = (
        f"import sys, pkgutil, importlib, {room} as room\n"
        "for module in pkgutil.iter_modules(room.__path__, room.__name__ + '.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "heavy = {m for m in sys.modules if m.split('.')[0] in ('torch', 'nvidia')}\n"
        "assert not heavy, sorted(heavy)[:5]\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_packing_process_starts_without_pandas_and_scipy() -> None:
    code = (
        "import sys, pipeline.shards.packing.local_engine, pipeline.ham10000.images\n"
        "heavy = {'pandas', 'scipy', 'fsspec', 'botocore'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
