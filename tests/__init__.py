"""Tests of tyk_pump; the folders mirror the package."""
