"""The parts of online learning: networks, rollouts, updates, and what watches over them."""
