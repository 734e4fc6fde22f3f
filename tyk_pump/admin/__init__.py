"""What people and their tools see of a running pump; beside the data's way."""
