"""The commands, one a file: what it is told, what it calls, and how it shows the answer."""
