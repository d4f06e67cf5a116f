"""Judges that others trained, for evaluation only: none of this is shipped with the package."""
