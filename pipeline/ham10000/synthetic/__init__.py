"""A synthetic dataset in HAM10000's layout."""
