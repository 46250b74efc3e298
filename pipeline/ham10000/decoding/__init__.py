"""From the bytes of an image file to pixels: one way for packing, duplicates and predicting."""
