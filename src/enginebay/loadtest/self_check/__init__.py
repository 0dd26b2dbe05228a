"""What this client can do on this machine, found out against a server that knows what it sent and when.

ceiling  the figures, and the file that keeps them      oracle  the server, in a process of its own
check    measures them: `enginebay bench --self-check`
"""
