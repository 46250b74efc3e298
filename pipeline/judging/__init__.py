"""What eval.py does with a checkpoint besides the report: predict, export and others."""
