"""What travels: analytics records, and their forms as bytes and as text."""
