"""How packed samples reach the accelerator: one Batch contract, two backends."""
