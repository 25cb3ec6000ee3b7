"""Vectors and payloads: the only package that knows Qdrant."""
