"""The reference engine: token ids in, token ids out. It knows no text, no HTTP and no YAML.

Read `engine.py` first: `Engine.step()` is the architecture.
"""
