"""What the operator wrote, and what is made of it."""
