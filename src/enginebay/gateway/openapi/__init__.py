"""What the server says of its own API: an OpenAPI document, and a page to read it on."""
