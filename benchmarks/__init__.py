"""Measurements: each stage of the data's way by itself, and the whole way."""
