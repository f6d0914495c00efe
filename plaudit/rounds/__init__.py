"""The recipe of stages, from prompts to a proven policy."""
