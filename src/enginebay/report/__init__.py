"""What a load test found, for people: terminal, Markdown, and one HTML page that needs no network."""
