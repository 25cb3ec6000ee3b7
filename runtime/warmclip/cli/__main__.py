"""``python -m warmclip.cli``."""

from warmclip.cli import main

main()
