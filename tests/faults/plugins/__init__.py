"""Put on PYTHONPATH by a test: gives the real command a pump that misbehaves."""
