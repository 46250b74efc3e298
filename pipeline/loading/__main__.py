"""Look at what a loader gives: ``python -m pipeline.loading preview``."""

from pipeline.cli import Command, dispatch

COMMANDS = {
    "preview": Command(
        "draw originals beside augmented versions, as the network sees them",
        "pipeline.loading.flags:PreviewFlags",
        "pipeline.loading.preview:run",
    ),
}
"""The sub-commands."""

if __name__ == "__main__":
    dispatch(COMMANDS)
