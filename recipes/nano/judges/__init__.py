"""Pretrained judges, for evaluation only: none of this is shipped with the package."""
