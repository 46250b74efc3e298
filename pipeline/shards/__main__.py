"""Pack, verify and describe shards: ``python -m pipeline.shards build|verify|stats|duplicates``."""

from pipeline.cli import Command, dispatch

COMMANDS = {
    "build": Command(
        "pack a dataset into shards",
        "pipeline.shards.flags:BuildFlags",
        "pipeline.shards.build:run",
    ),
    "verify": Command(
        "prove that shards are undamaged and that no lesion is in two splits",
        "pipeline.shards.flags:VerifyFlags",
        "pipeline.shards.verify:run",
    ),
    "stats": Command(
        "classes, sex, age and site by split, printed and drawn",
        "pipeline.shards.flags:StatsFlags",
        "pipeline.shards.stats:run",
    ),
    "duplicates": Command(
        "find images of one lesion that are filed under different ids",
        "pipeline.shards.flags:DuplicatesFlags",
        "pipeline.duplicates.find:run",
    ),
}

if __name__ == "__main__":
    dispatch(COMMANDS)
