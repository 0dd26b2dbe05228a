"""Whether a run measured what it says: every run ends valid, or invalid with reasons.

reason    a code, its bound and its remedy      evidence  what the checks look at      checks  the door
The other modules hold one subject each: its reasons, its bounds and the check. docs/validity.md is the list.
"""
