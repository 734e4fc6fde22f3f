"""Deliberate bugs, and what finds them."""
