"""Intervals, coefficients of agreement and what else is said of numbers; no number without its interval."""
