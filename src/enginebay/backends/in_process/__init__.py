"""A foreign engine that computes in Python, in a worker process of ours under an interpreter of its own.

`foreign_engine.py` is what a plugin writes, `serve.py` runs it in the child, `backend.py` is the parent's side.
The child needs the engine and msgspec; of ours it sees the packages `enginebay` and the plugin's alone.
"""
