"""Tests of the record: its forms as bytes and as text."""
