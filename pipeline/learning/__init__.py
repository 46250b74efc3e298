"""What is learnt: model, losses, optimizers, calibration and threshold, inference, export."""
