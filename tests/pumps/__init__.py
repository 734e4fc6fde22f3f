"""Tests of the pumps, each against its own back end."""
