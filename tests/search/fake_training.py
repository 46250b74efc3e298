"""Stands in for train.py: the same folder, table, signals and exit codes, in milliseconds.

An epoch takes FAKE_SECONDS. Starts and ends are lines "folder event pid epoch" in FAKE_DIARY. A
rate above FAKE_NAN is an error; FAKE_HANG ignores SIGTERM; FAKE_STALL waits after so many epochs of
a first start for the file FAKE_DIARY.go; after each of the first FAKE_HUNG epochs it ends as a
training that its watchdog ends, under a launcher, which makes the code 1; FAKE_CHILD works in a
child process, as under a launcher.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def flags() -> dict[str, str]:
    words = [part for word in sys.argv[1:] for part in word.split("=")]
    return {k.removeprefix("--"): v for k, v in zip(words[::2], words[1::2], strict=True)}


def value(lr: float, epoch: int) -> float:
    """Best at 3e-4, rising with the epochs."""
    return 0.5 + 0.4 * math.exp(-((math.log10(lr) + 3.5) ** 2)) * (1 - 0.5**epoch)


def main() -> None:
    given = flags()
    run, lr, epochs = Path(given["run-dir"]), float(given["lr"]), int(given["epochs"])
    table = run / "history.csv"
    rows = table.read_text().splitlines() if table.exists() else ["epoch,val_roc_auc"]
    diary = Path(os.environ["FAKE_DIARY"])

    def note(event: str) -> None:
        with diary.open("a") as file:
            file.write(f"{run.name} {event} {os.getpid()} {len(rows) - 1}\n")

    def leave(*_) -> None:
        note("saved")
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if "FAKE_HANG" in os.environ else leave)
    run.mkdir(parents=True, exist_ok=True)
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "config.json").write_text(json.dumps(given))
    note(f"start[{' '.join(sys.argv[1:]).replace(' ', '|')}]")
    if lr > float(os.environ.get("FAKE_NAN", "inf")):
        print("error: the loss is nan", flush=True)
        raise SystemExit(2)
    stall = len(rows) == 1 and int(os.environ.get("FAKE_STALL", "0"))
    while len(rows) <= epochs:
        while stall and len(rows) > stall and not diary.with_suffix(".go").exists():
            time.sleep(0.1)
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0.01")))
        rows.append(f"{len(rows)},{value(lr, len(rows))}")
        beside = table.with_name(".history")
        beside.write_text("\n".join(rows) + "\n")
        beside.replace(table)
        if len(rows) - 1 <= int(os.environ.get("FAKE_HUNG", "0")):
            note("hung")
            (run / "exit.json").write_text('{"code": 75}')
            raise SystemExit(1)
    note("done")


if __name__ == "__main__":
    if "FAKE_CHILD" in os.environ:  # as accelerate launch does: dies of SIGTERM, its child does not
        del os.environ["FAKE_CHILD"]
        raise SystemExit(subprocess.run([sys.executable, *sys.argv], check=False).returncode)
    main()
