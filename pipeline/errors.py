"""The one exception for what a user, a file or a disk can cause.

A message says what is wrong, where, what was expected, what was found and what to do. The
commands print it without a traceback and leave with exit code 2 (see ``pipeline.cli``).
"""


class DataError(ValueError):
    """Input that cannot be used: damaged, missing, contradictory, or of another format."""
