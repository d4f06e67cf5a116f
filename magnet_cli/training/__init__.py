"""Training: objectives, the loop, encoding of data."""
