"""Where records come from: Redis lists, claimed, read and trimmed."""
