"""What this instance keeps on its own disk, between claim and settlement."""
