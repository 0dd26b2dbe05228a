"""Simulated engines: the real protocols of vLLM, TGI and others, a simple model of their performance, and faults.

Nothing here computes a model. Every answer carries the header `x-enginebay-simulated`, every metrics text
`enginebay_simulated 1`.
"""

from enginebay.testing.simulators.faults import Fault, FaultPlan, FaultRule
from enginebay.testing.simulators.performance import INSTANT, PACED, PROFILES, SimulatorProfile
from enginebay.testing.simulators.server import Simulator, find_wire, simulated_kinds

__all__ = [
    "INSTANT",
    "PACED",
    "PROFILES",
    "Fault",
    "FaultPlan",
    "FaultRule",
    "Simulator",
    "SimulatorProfile",
    "find_wire",
    "simulated_kinds",
]
