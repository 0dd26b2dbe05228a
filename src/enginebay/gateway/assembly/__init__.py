"""A gateway out of its config. What a config does not ask for is not imported."""
