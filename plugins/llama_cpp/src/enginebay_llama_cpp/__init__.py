"""llama.cpp server as a backend of EngineBay."""
