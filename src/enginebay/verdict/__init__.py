"""What may be concluded from load tests: who is faster, whether all say the same, whether the load was the same."""
