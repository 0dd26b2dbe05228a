"""What was really sent in a run, as its sockets were given it, not as it was planned.

log  keeps references while a run goes on      body  what a body says, in any engine's words      sent  one line a send
"""
