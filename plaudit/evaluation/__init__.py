"""Measuring policies and reward models; no number without its interval."""
