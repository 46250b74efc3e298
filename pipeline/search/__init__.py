"""Search for better flags of train.py with Optuna."""
