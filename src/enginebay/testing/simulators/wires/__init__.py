"""One module for each engine; each offers `WIRE`. How to write one stands in `simulators/wire.py`."""
