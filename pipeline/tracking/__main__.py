"""``python -m pipeline.tracking dashboard``: see ``pipeline.tracking.dashboard``."""

import sys

from pipeline.cli import guard
from pipeline.tracking.dashboard import main

assert sys.argv.pop(1) == "dashboard"
guard(main)
