"""What stages learn from: judgments that are chosen, encoded and grouped by prompt."""
