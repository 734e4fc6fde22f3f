"""Every state that the claim protocol can reach within small bounds."""
