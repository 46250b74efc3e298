"""How the dataset is packed: splits, tar shards, the manifest, and the proof that they are whole."""
