"""Whether a bundle computes what open_clip computes: the export's gate, and the whole suite."""
