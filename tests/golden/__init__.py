"""What the reference sent, release v1.16.0, and the tests that compare with it."""
