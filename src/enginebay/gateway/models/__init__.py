"""What clients call a model, and what serves it."""
