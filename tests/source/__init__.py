"""Tests of the source, on real Redis servers."""
