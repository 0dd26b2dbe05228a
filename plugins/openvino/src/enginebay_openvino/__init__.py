"""OpenVINO GenAI as a backend of EngineBay."""
