"""Evaluation: metrics and what feeds them."""
