"""Figures of predictions with intervals: functions of arrays and a table."""
