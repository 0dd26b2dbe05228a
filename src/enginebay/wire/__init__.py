"""Wire forms: OpenAI JSON, SSE, Prometheus text, HTTP/1.1, in both directions."""
