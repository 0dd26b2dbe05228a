"""vLLM as a backend of EngineBay."""
