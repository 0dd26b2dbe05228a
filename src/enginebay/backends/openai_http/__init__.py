"""Any server that speaks the OpenAI API, ours included, reached over HTTP."""
