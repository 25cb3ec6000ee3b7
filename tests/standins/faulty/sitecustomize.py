"""Python imports this module by itself in every process that has its folder on PYTHONPATH."""

import faulty_providers  # type: ignore[import-not-found]  # its folder is on PYTHONPATH only there

faulty_providers.enter()
