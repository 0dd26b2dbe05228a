"""Faster forms of what the engine does in plain PyTorch, each tested against the plain form."""
