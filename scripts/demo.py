"""Everything once, on made-up data: ``make demo``.

Synthesizes a dataset in HAM10000's layout, packs it into shards, trains a ResNet-34 from scratch
on two CPU processes through ``accelerate launch``, judges it on the held-out split and says where
each thing lies. Needs no GPU, no network and no account. Each stage is the command a user would
type, printed before it runs.

    python scripts/demo.py
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA, SHARDS, RUN, REPORT = (Path(room, "demo") for room in ("data", "shards", "runs", "reports"))

STAGES: tuple[tuple[str, str, Path], ...] = (
    (
        "Make a dataset up, in HAM10000's file layout",
        f"python -m pipeline.ham10000 synthesize --out {DATA} --images 600 --seed 0",
        DATA,
    ),
    (
        "Pack it into WebDataset shards; no lesion in two splits",
        f"python -m pipeline.shards build --source {DATA} --out {SHARDS} --image-size 128",
        SHARDS,
    ),
    (
        "Check every byte of the shards",
        f"python -m pipeline.shards verify {SHARDS}",
        SHARDS / "manifest.json",
    ),
    (
        "Train a ResNet-34 from scratch on two processes (CPU ranks where there is no GPU)",
        "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 "
        f"train.py --shards {SHARDS} --run-dir {RUN} --weights none --image-size 64 --epochs 10 "
        "--batch-size 16 --optimizer adamw --lr 1e-3 --schedule onecycle",
        RUN,
    ),
    (
        "Judge the best checkpoint on the held-out test split",
        f"python eval.py --checkpoint {RUN}/best --shards {SHARDS} --split test --out {REPORT}",
        REPORT / "report.html",
    ),
)
"""What each stage is for, the command a user would type, and where its result lies."""


def run_stage(number: int, title: str, command: str, result: Path) -> None:
    """Print what comes, run it in this environment, and say where the result lies."""
    print(f"\n[{number}/{len(STAGES)}] {title}\n      $ {command}", flush=True)
    tools, words = Path(sys.executable).parent, shlex.split(command)
    start = time.perf_counter()
    done = subprocess.run([str(tools / words[0]), *words[1:]], cwd=ROOT, check=False)
    if done.returncode != 0:
        raise SystemExit(f"demo: stage {number} failed (exit code {done.returncode}), see above")
    print(f"      done in {time.perf_counter() - start:.0f} s: {result}", flush=True)


def main() -> None:
    """Run every stage afresh and print the headline figures."""
    start = time.perf_counter()
    for folder in (DATA, SHARDS, RUN, REPORT):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    for number, (title, command, result) in enumerate(STAGES, start=1):
        run_stage(number, title, command, result)
    metrics = json.loads((ROOT / REPORT / "metrics.json").read_text())
    print(
        f"\nThe demo took {time.perf_counter() - start:.0f} s. On {metrics['n']} held-out made-up "
        f"images: ROC-AUC {metrics['roc_auc']:.3f}, sensitivity {metrics['sensitivity']:.3f}, "
        f"specificity {metrics['specificity']:.3f}.\n"
        f"Open {REPORT / 'report.html'} in a browser. Next: the real data, see README.md."
    )


if __name__ == "__main__":
    main()
