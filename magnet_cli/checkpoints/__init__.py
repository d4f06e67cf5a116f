"""Checkpoints: known names, files, formats, loading."""
