"""How the dataset is packed: splits, tar shards, the manifest, the proof that they are whole."""
