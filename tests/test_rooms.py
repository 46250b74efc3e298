"""The walls and sizes of the house: who may import whom, how large a module, folder or room is."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(ROOT.glob("pipeline/**/*.py"))
TOTAL_LINES = 21_223
"""Of pipeline, train.py and eval.py with templates: a larger whole is a decision, made here."""

TORCH = ("torch", "torchvision", "nvidia", "accelerate")
LOADING_CHOICES = tuple(
    f"pipeline.loading.{name}" for name in ("batch", "flags", "order", "presets")
)
TAXONOMY = "pipeline.ham10000.taxonomy"

WALLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # room: what it may import of other rooms, and libraries that it may not
    "ham10000": ((), TORCH),
    "duplicates": (("pipeline.ham10000", "pipeline.shards"), TORCH),
    "shards": (("pipeline.ham10000",), TORCH),
    "loading": ((TAXONOMY, "pipeline.shards"), ("wandb", "accelerate")),
    "learning": ((TAXONOMY, *LOADING_CHOICES), ("nvidia", "wandb")),
    "tracking": ((TAXONOMY, "pipeline.learning"), ("nvidia",)),
    "training": (
        (TAXONOMY, *LOADING_CHOICES, "pipeline.learning", "pipeline.tracking"),
        ("nvidia",),
    ),
    "search": (
        ("pipeline.training", "pipeline.shards.storage", "pipeline.evaluation.report.page"),
        ("nvidia", "wandb"),
    ),
    "evaluation": (
        ("pipeline.ham10000", "pipeline.learning.flags", "pipeline.loading.flags"),
        TORCH,
    ),
    "judging": (
        (
            *("pipeline.ham10000", "pipeline.shards", "pipeline.loading", "pipeline.learning"),
            *("pipeline.evaluation", "pipeline.training.processes", "pipeline.duplicates"),
        ),
        ("nvidia", "wandb"),
    ),
}

PACKAGE = ("cli", "errors", "figures", "files", "folders", "machine", "out_of_memory", "owner")
"""Modules of ``pipeline`` itself: every room may import them, they import no room."""

HELPS = (
    ("train.py",),
    *(("eval.py", *word) for word in ((), ("compare",), ("predict",), ("export",))),
    *(("eval.py", word) for word in ("submit", "folds", "features", "baseline")),
    ("-m", "pipeline"),
    *(("-m", "pipeline.ham10000", word) for word in ("download", "synthesize")),
    *(("-m", "pipeline.shards", word) for word in ("build", "verify", "stats", "duplicates")),
    ("-m", "pipeline.loading", "preview"),
    ("-m", "pipeline.search"),
    ("-m", "pipeline.tracking", "dashboard"),
)


def name_of(path: Path) -> str:
    """``pipeline/shards/build.py`` as ``pipeline.shards.build``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_names(path: Path) -> set[str]:
    """Every module that the file imports, at any depth of nesting, for type checkers too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / "pipeline" / room).rglob("*.py"))


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("room", WALLS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    allowed, forbidden = WALLS[room]
    own = (f"pipeline.{room}", *(f"pipeline.{name}" for name in PACKAGE))
    rooms = tuple(f"pipeline.{name}" for name in WALLS)
    for path in files_of(room):
        for name in imported_names(path):
            where = f"{path.relative_to(ROOT)} imports {name}"
            assert not within(name, forbidden), where
            # "from pipeline.learning import x" names the package too
            parent = any(place.startswith(f"{name}.") for place in allowed)
            assert not within(name, rooms) or within(name, (*own, *allowed)) or parent, where


def test_every_room_has_its_walls_and_the_package_itself_knows_no_room() -> None:
    rooms = {path.name for path in (ROOT / "pipeline").iterdir() if (path / "__init__.py").exists()}
    assert rooms == set(WALLS)
    for module in PACKAGE:
        names = imported_names(ROOT / "pipeline" / f"{module}.py")
        assert not any(within(name, tuple(f"pipeline.{room}" for room in rooms)) for name in names)


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import circle; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_import_circle() -> None:
    modules = {name_of(path): imported_names(path) for path in MODULES}
    assert circle_in({"a": {"b"}, "b": {"a"}})
    assert (
        circle_in({name: (names & set(modules)) - {name} for name, names in modules.items()}) == []
    )


def test_sizes_of_modules_folders_rooms_and_the_whole() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in MODULES}
    scripts = [ROOT / "train.py", ROOT / "eval.py"]
    long = {str(p.relative_to(ROOT)): n for p, n in lines.items() if n > 300}
    long |= {p.name: n for p in scripts if (n := len(p.read_text().splitlines())) > 300}
    assert not long
    for folder in {path.parent for path in MODULES}:
        assert sum(path.is_file() for path in folder.iterdir()) <= 14, folder
    templates = sorted(ROOT.glob("pipeline/**/*.j2"))
    counted = [*MODULES, *templates, *scripts]
    total = sum(len(path.read_text().splitlines()) for path in counted)
    assert total <= TOTAL_LINES
    for room in WALLS:
        inside = [p for p in counted if (ROOT / "pipeline" / room) in p.parents]
        assert sum(len(p.read_text().splitlines()) for p in inside) <= total / 5, room


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_answers_without_torch(words: tuple[str, ...]) -> None:
    code = (
        "import runpy, sys\n"
        "words = sys.argv[1:]\n"
        "module = words[0] == '-m'\n"
        "sys.argv = [*words[1 if module else 0:], '--help']\n"
        "try:\n"
        "    if module: runpy.run_module(words[1], run_name='__main__', alter_sys=True)\n"
        "    else: runpy.run_path(words[0], run_name='__main__')\n"
        "except SystemExit as leaving:\n"
        "    assert not leaving.code, leaving.code\n"
        "heavy = {m.partition('.')[0] for m in sys.modules} & {'torch', 'optuna', 'wandb'}\n"
        "assert not heavy, heavy\n"
    )
    done = run("-c", code, *words)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout or words == ("-m", "pipeline")


def test_importing_the_package_loads_no_room() -> None:
    done = run("-c", "import pipeline, sys; print(*(m for m in sys.modules if 'pipeline' in m))")
    assert done.stdout.split() == ["pipeline"], done.stderr


def test_names_of_the_package_are_imported_when_first_used() -> None:
    code = "import pipeline; [getattr(pipeline, name) for name in pipeline.__all__]"
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ["ham10000", "duplicates", "shards"])
def test_packing_rooms_bring_neither_torch_nor_dali(room: str) -> None:
    modules = [name_of(path) for path in files_of(room) if path.stem != "__main__"]
    code = (
        f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
        "heavy = {m for m in sys.modules if m.split('.')[0] in ('torch', 'nvidia')}\n"
        "assert not heavy, sorted(heavy)[:5]\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


def test_a_packing_process_starts_without_pandas_and_scipy() -> None:
    code = (
        "import sys, pipeline.shards.packing.local_engine, pipeline.ham10000.images\n"
        "heavy = {'pandas', 'scipy', 'obstore', 'botocore'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
