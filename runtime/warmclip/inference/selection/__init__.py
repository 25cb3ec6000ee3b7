"""Which provider may compute each tower, and the checks while it does."""
