"""Get the data, or synthesize some.

python -m pipeline.ham10000 download --out data/ham10000
python -m pipeline.ham10000 synthesize --out data/demo --images 600 --seed 0
"""

from pipeline.cli import Command, dispatch

COMMANDS = {
    "download": Command(
        "fetch HAM10000 from the Harvard Dataverse",
        "pipeline.ham10000.flags:DownloadFlags",
        "pipeline.ham10000.download:run",
    ),
    "synthesize": Command(
        "write a synthetic dataset in the same layout",
        "pipeline.ham10000.flags:SynthesizeFlags",
        "pipeline.ham10000.synthetic.dataset:run",
    ),
}

if __name__ == "__main__":
    dispatch(COMMANDS)
