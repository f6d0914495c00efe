"""The loops: supervised fine-tuning, reward models, policy optimisation."""
