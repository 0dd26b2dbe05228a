"""Which replica gets a request. Each policy is a plugin, ours too."""
