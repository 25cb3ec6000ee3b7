"""``python -m warmclip.cli``."""

from warmclip.__main__ import main

main()
