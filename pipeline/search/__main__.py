"""``python -m pipeline.search``: see ``pipeline.search.command``."""

from pipeline.cli import guard
from pipeline.search.command import main

guard(main)
