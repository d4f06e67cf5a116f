"""Audio: files, loudness, pictures."""
