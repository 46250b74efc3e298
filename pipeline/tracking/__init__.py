"""Where a run's figures go besides its tables: Weights & Biases, TensorBoard, nowhere."""
