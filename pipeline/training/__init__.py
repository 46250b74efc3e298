"""One training run: flags, processes, state, checkpoints, and what is left on disk."""
