"""float16, computed as an accelerator computes it."""
