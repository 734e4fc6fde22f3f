"""Registers the faulty pump in a Python process that has this folder on its path."""

from tyk_pump import pumps

pumps.REGISTRY["faulty"] = "faulty_pump:FaultyPump"
pumps.REGISTRY["undriven"] = "undriven_pump:UndrivenPump"
