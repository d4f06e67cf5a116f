"""Editing: continue, inpaint, vary, loop, go longer. Each is a request over known codes."""
