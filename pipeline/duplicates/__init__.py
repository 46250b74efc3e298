"""Find photographs of one lesion that are filed under two ids."""
