"""Decoding: the loops from logits to codes. They never import a model."""
