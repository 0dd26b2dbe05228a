"""What carries a request to an engine: the reference engine, OpenAI servers, and what adapters share."""
