"""Every configuration of open_clip: whether it becomes a bundle, how close, in how many pieces."""
