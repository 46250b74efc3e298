"""What a person reads: plots, galleries, the pages."""
