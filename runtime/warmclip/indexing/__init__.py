"""Vectors into a store and back: which files, which points, which collection."""
