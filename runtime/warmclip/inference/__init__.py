"""Pixels and words to unit vectors: the bundle, its session, its preprocessing, its encoder."""
