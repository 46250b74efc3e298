"""``python -m pipeline.tracking dashboard --entity ME --project ham10000``."""

from pipeline.cli import Command, dispatch

COMMANDS = {
    "dashboard": Command(
        "save a W&B workspace with the panels that matter, or print it",
        "pipeline.tracking.flags:DashboardFlags",
        "pipeline.tracking.dashboard:run",
    ),
}

if __name__ == "__main__":
    dispatch(COMMANDS)
