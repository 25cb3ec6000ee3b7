"""What this machine is, and what survives on it in which kind of process.

``warmclip doctor`` itself loads nothing heavy: whatever may crash or hang is done in children.
"""
