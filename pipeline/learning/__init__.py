"""What is learnt and kept: model, losses, schedules, checkpoints, tracking, the stored model."""
