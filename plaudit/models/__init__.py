"""Transformer bodies, adapters, heads, and the log-probs, values and scores read from them."""
