"""Data: prompt files, manifests, token shards."""
