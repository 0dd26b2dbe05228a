"""A process of ours around an engine that computes in Python: launched, watched, and never left behind.

`process.py` is the parent's side, `__main__.py` the child's, `channel.py` what passes between them.
`supervisor.py` stands between us and an engine that starts processes of its own: it ends with all of them.
"""
