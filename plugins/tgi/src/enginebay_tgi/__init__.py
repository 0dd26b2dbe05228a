"""Text Generation Inference as a backend of EngineBay."""
