"""Measuring policies, reward models and judges."""
