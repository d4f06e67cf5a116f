"""Inputs that surprise: odd ones that are valid, and hostile ones. Each is tried on the program itself."""
