"""TensorRT-LLM as a backend of EngineBay."""
