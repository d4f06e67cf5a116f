"""Reads untrusted files within limits, and shows their text safely."""
