"""Trackers: where a run's figures and pictures go besides its tables."""
