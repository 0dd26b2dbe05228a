"""Who may come in: API keys, scopes, and the rule for a gateway without keys."""
