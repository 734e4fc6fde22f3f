"""The child process of one configured pump."""
