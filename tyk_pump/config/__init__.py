"""What the operator wrote, complete before any process starts."""
