"""The whole pipeline on synthetic data: ``make demo``.

Makes a dataset in HAM10000's layout, packs it into shards, trains a ResNet-34 from scratch on two
CPU processes with ``accelerate launch``, and evaluates it on the held-out split. Needs no GPU, no
network and no account. Each stage prints the command that it runs.

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
DATA, SHARDS, RUN, REPORT = "data/demo", "shards/demo", "runs/demo", "reports/demo"

STAGES = (
    (
        "Make a synthetic dataset in HAM10000's file layout",
        f"python -m pipeline.ham10000 synthesize --out {DATA} --images 600 --seed 0",
    ),
    (
        "Pack it into WebDataset shards; no lesion is in two splits",
        f"python -m pipeline.shards build --source {DATA} --out {SHARDS} --image-size 128",
    ),
    (
        "Verify the shards",
        f"python -m pipeline.shards verify {SHARDS}",
    ),
    (
        "Train a ResNet-34 from scratch on two processes (on the CPU where there is no GPU)",
        "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 "
        f"train.py --shards {SHARDS} --run-dir {RUN} --weights none --image-size 64 --epochs 10 "
        "--batch-size 16 --optimizer adamw --lr 1e-3 --schedule onecycle",
    ),
    (
        "Evaluate the best checkpoint on the held-out test split",
        f"python eval.py --checkpoint {RUN}/best --shards {SHARDS} --split test --out {REPORT}",
    ),
)
"""What each stage does, and its command."""


def run_stage(number: int, title: str, command: str) -> None:
    """Run one command in this environment; a failure ends the demo."""
    print(f"\n[{number}/{len(STAGES)}] {title}\n      $ {command}", flush=True)
    start = time.perf_counter()
    program, *words = shlex.split(command)
    done = subprocess.run([Path(sys.executable).parent / program, *words], cwd=ROOT, check=False)
    if done.returncode != 0:
        raise SystemExit(f"demo: stage {number} failed (exit code {done.returncode}), see above")
    print(f"      done in {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    """Remove the results of an earlier demo, run every stage, print the main figures."""
    start = time.perf_counter()
    for folder in (DATA, SHARDS, RUN, REPORT):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    for number, (title, command) in enumerate(STAGES, start=1):
        run_stage(number, title, command)
    metrics = json.loads((ROOT / REPORT / "metrics.json").read_text())
    print(
        f"\nThe demo took {time.perf_counter() - start:.0f} s. On {metrics['n']} held-out "
        f"synthetic images: ROC-AUC {metrics['roc_auc']:.3f}, sensitivity "
        f"{metrics['sensitivity']:.3f}, specificity {metrics['specificity']:.3f}.\n"
        f"Shards: {SHARDS}. Run: {RUN}. Report, for a browser: {REPORT}/report.html.\n"
        f"Next: the real data, see README.md."
    )


if __name__ == "__main__":
    main()
