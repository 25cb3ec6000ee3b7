"""Which provider may compute each tower, and whether it goes on doing so."""
