"""Simulated brain MRI with and without a tumour."""

from kdcore.data.simulation.brain import LABELS, REGIONS, Simulation, simulate_cases

__all__ = ["LABELS", "REGIONS", "Simulation", "simulate_cases"]
