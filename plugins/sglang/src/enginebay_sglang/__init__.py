"""SGLang as a backend of EngineBay."""
