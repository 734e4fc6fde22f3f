"""The parent process: claims, offers frames to workers, settles and trims."""
