"""Procedural composition of the built-in model's captioned sounds.

Reading order: `instruments` and `styles` (tables), `plan` (the decisions for a clip), `split` (its split),
`harmony`, `textures`, `rhythm`, `composer` (plan to score), `captions`, `effects` (sounds that are not
music), `render` (score to audio), `dataset` (many clips, resumable), `__main__` (the command).

Clip `i` of seed `s` always has the same plan, score, captions and split.
"""
