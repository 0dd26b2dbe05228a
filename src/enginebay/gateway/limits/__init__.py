"""How much each client may have: requests, tokens, concurrency and money."""
