"""Tests of the aggregation: records to counters."""
