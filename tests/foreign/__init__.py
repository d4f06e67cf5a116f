"""Tests for reading untrusted files."""
