"""The cluster's engine: the same bytes, also when a worker is killed in the middle."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.ham10000.source import open_source
from pipeline.shards.flags import BuildFlags
from pipeline.shards.packing.build_plan import BuildPlan, make_plan
from pipeline.shards.packing.builder import build
from pipeline.shards.packing.local_engine import run_here
from pipeline.shards.packing.ray_engine import run_on_ray
from pipeline.shards.packing.shard_plan import EncodeSettings
from pipeline.shards.storage.store import LocalStore

pytestmark = pytest.mark.slow


Contents = Callable[[Path], dict[str, bytes]]


@dataclass(frozen=True)
class DeadlyStore(LocalStore):
    """A store whose writer is killed, once, right after its second shard's tar is in place."""

    root: Path
    marker: Path

    def publish(self, name: str, *pieces: bytes) -> None:
        super().publish(name, *pieces)
        if name.endswith("000002.tar"):
            try:
                self.marker.open("x").close()
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


def plan_of(source: Path) -> BuildPlan:
    flags = BuildFlags(source=(source,), samples_per_shard=10, images=EncodeSettings(32))
    return make_plan(open_source(source), flags)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    # a package named tests among the requirements would be imported in place of this folder
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_a_cluster_gives_the_bytes_of_one_machine_though_a_worker_is_killed(
    cluster: None,
    synthetic_source: Path,
    tmp_path: Path,
    contents: Contents,
) -> None:
    plan = plan_of(synthetic_source)
    build(plan, LocalStore(tmp_path / "here"), run_here(1), progress=False)
    calm = LocalStore(tmp_path / "calm")
    build(plan, calm, run_on_ray(), progress=False)
    deadly = DeadlyStore(tmp_path / "deadly", tmp_path / "killed")
    build(plan, deadly, run_on_ray(), progress=False)
    assert (tmp_path / "killed").exists()
    assert contents(tmp_path / "calm") == contents(tmp_path / "here")
    assert contents(tmp_path / "deadly") == contents(tmp_path / "here")


def test_a_bad_image_on_the_cluster_is_the_same_clear_message(
    cluster: None, synthetic_source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for path in synthetic_source.iterdir():
        (folder / path.name).symlink_to(path) if path.is_file() else (folder / path.name).mkdir()
    for path in synthetic_source.glob("*/*.jpg"):
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    victim = next(folder.glob("*/*.jpg"))
    victim.write_bytes(victim.read_bytes()[:500])
    plan = plan_of(folder)
    with pytest.raises(DataError, match=f"bad image {victim.stem}"):
        build(plan, LocalStore(tmp_path / "out"), run_on_ray(), progress=False)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_no_cluster_at_an_address_is_one_clear_message(
    command: Callable[..., subprocess.CompletedProcess[str]], synthetic_source: Path, tmp_path: Path
) -> None:
    words = ["build", "--source", synthetic_source, "--out", tmp_path / "out"]
    done = command("-m", "pipeline.shards", *words, "--engine", "ray", "--address", "127.0.0.1:1")
    assert done.returncode == 2, done.stderr
    assert "error: no Ray cluster at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
