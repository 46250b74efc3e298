"""``python -m pipeline.search``: see ``pipeline.search.worker``."""

from pipeline.cli import guard, parse
from pipeline.search.flags import SearchFlags


def main() -> None:
    """Read the flags, then search."""
    flags = parse(SearchFlags)
    from pipeline.search.worker import search  # optuna takes a second: --help does without it

    search(flags)


guard(main)
