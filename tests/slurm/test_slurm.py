"""configs/slurm.sh on a real Slurm cluster of two nodes, which the test starts on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
CONF = """
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldPort={ports[0]}
ReturnToService=2
KillWait=30
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[1]} CPUs=1 RealMemory=1000
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname={host} Port={ports[2]} CPUs=1 RealMemory=1000
PartitionName=p Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
"""A requeued job waits for the expiry of credentials (Slurm's default: 120 s)."""


def until(holds: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, what()
        time.sleep(0.2)


@dataclass
class Cluster:
    """Two nodes of one CPU each."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def ask(self, *words: str | Path, **env: str) -> str:
        """Run one of Slurm's commands."""
        done = subprocess.run(
            list(map(str, words)),
            cwd=ROOT,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def logs(self) -> str:
        return "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if missing := [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name)]:
        pytest.skip(f"no Slurm installed ({', '.join(missing)}): apt-get install slurm-wlm munge")
    if os.getuid():
        pytest.skip("Slurm's daemons need root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    for name in ("state", "n1", "n2"):
        (folder / name).mkdir()
    text = CONF.format(host=socket.gethostname(), folder=folder, ports=ports)
    (folder / "slurm.conf").write_text(text)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    paths = {"socket": "munge.socket", "key-file": "key", "pid-file": "munge.pid"}
    paths |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    words = [f"--{flag}={folder / name}" for flag, name in paths.items()]
    munged = subprocess.Popen(["munged", "--foreground", "--force", *words])
    found = Cluster(folder)
    until((folder / "munge.socket").exists, 20, found.logs)
    daemons = (("slurmctld",), ("slurmd", "-N", "n1"), ("slurmd", "-N", "n2"))
    started = [
        subprocess.Popen([word, "-D", *words], env=found.env, stderr=subprocess.DEVNULL)
        for word, *words in daemons
    ]
    try:
        idle = lambda: found.ask("sinfo", "-h", "-o", "%D", "-t", "idle") == "2"  # noqa: E731
        until(lambda: _answers(idle), 60, found.logs)
        yield found
    finally:
        with suppress(AssertionError):
            found.ask("scancel", "--user=root")
        for process in reversed([munged, *started]):
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(question: Callable[[], bool]) -> bool:
    with suppress(AssertionError):
        return question()
    return False


KEPT = ("history.csv", "best/model.safetensors", "best/model.json", "best/training_samples.csv")


STUBS = {
    "scontrol": """case "$1 $2" in
        "show hostnames") echo n1 ;; "show node") echo " NodeAddr=n1 " ;; *) echo "$*" >> asked ;;
    esac""",
    "srun": """mkdir -p run/checkpoints/step-$SAVES
    echo '{"code": '$CODE'}' > run/exit.json; exit 1""",
}
"""Slurm's commands, for the script alone: the job saves a checkpoint and ends with a code."""


@pytest.mark.parametrize(
    ("code", "saves", "queued"),
    [(75, "00000002", True), (75, "00000001", False), (2, "00000002", False)],
    ids=["hung", "hung without progress", "mistake"],
)
def test_a_job_that_hung_is_queued_again_where_it_has_progressed(
    tmp_path: Path, code: int, saves: str, queued: bool
) -> None:
    (tmp_path / "run/checkpoints/step-00000001").mkdir(parents=True)
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SAVES": saves}
    env |= {"CODE": str(code), "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_ID": "7"}
    words = ["bash", ROOT / "configs/slurm.sh", "--run-dir", "run"]
    job = subprocess.run(
        words, cwd=tmp_path, env=env | {"SLURM_CPUS_PER_TASK": "1"}, check=False, timeout=60
    )
    assert job.returncode == (0 if queued else code)
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7\n" if queued else "")


@pytest.mark.slow
def test_at_the_time_limit_a_job_saves_is_requeued_and_ends_as_if_undisturbed(
    cluster: Cluster, packed: Path, tmp_path: Path
) -> None:
    run, log, pause = (cluster.folder / name for name in ("run", "job.log", "pause"))
    pause.mkdir()
    training = ["--shards", packed, "--arch", "shufflenet_v2_x0_5", "--weights", "none"]
    training += ["--image-size", "32", "--epochs", "3", "--batch-size", "6", "--threads", "1"]
    training += ["--tracker", "none", "--mixed-precision", "no", "--run-dir"]
    submit = ["sbatch", "--parsable", "--gpus-per-node=0", "--cpus-per-task=1", "--time=10"]
    submit += ["--signal=B:USR1@20", f"--output={log}", "configs/slurm.sh", *training, run]
    paths = os.pathsep.join(map(str, (Path(__file__).parent / "paused", ROOT)))
    paused = {"PYTHONPATH": paths, "PAUSE": str(pause)}
    job = cluster.ask(*submit, GPUS="1", PAUSE_AT="8", **paused)

    # -- in the middle of an epoch, the limit becomes the next whole minute but one
    text = lambda: (log.read_text() if log.exists() else "") + cluster.logs()  # noqa: E731
    until((pause / "paused").exists, 240, text)
    elapsed = cluster.ask("squeue", "-h", "-j", job, "-o", "%M")  # minutes:seconds
    minutes = int(elapsed.split(":")[-2]) + 2
    cluster.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    until(lambda: "the time limit is near" in text(), 150, text)
    (pause / "go").touch()
    until((run / "exit.json").exists, 60, text)
    left = json.loads((run / "exit.json").read_text())
    assert left["code"] == 143 and left["reason"] == "SIGTERM: saved, then left", text()
    saved = max(path.name for path in (run / "checkpoints").iterdir())
    restarts = lambda: cluster.ask("scontrol", "show", "job", "-o", job)  # noqa: E731
    until(lambda: "Restarts=1" in restarts(), 60, restarts)
    cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=30")

    # -- the same job starts again by itself, resumes and ends
    ended = lambda: any(f"JobState={how}" in restarts() for how in ("COMPLETED", "FAILED"))  # noqa: E731
    until(ended, 240, text)
    assert "JobState=COMPLETED" in restarts(), text()
    assert json.loads((run / "exit.json").read_text())["code"] == 0
    assert f"resuming from {run / 'checkpoints' / saved}" in log.read_text()
    steps = [int(line) for line in (pause / "steps").read_text().split()]
    assert steps == list(range(1, steps[-1] + 1))  # none was redone, none left out

    words = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
    calm = [*words, "train.py", *training, tmp_path / "calm"]
    subprocess.run(list(map(str, calm)), cwd=ROOT, check=True, capture_output=True, timeout=240)
    for name in KEPT:
        assert (run / name).read_bytes() == (tmp_path / "calm" / name).read_bytes(), name
    assert len(pd.read_csv(run / "history.csv")) == 3
