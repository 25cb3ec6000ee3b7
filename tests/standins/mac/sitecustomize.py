"""Python imports this module by itself in every process that has its folder on PYTHONPATH."""

import pretended_mac  # type: ignore[import-not-found]  # its folder is on PYTHONPATH only there

pretended_mac.enter()
