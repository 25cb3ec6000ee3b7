"""``python -m warmclip`` is the command ``warmclip``."""

from warmclip.cli import main

main()
