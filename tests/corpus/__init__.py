"""Unusual inputs, valid or hostile, each tried on the program itself."""
