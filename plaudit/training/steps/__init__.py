"""What an optimiser step is made of: a loss from a batch of each kind, AdamW with its schedule, checkpoints."""
