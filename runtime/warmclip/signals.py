"""Signals by name."""

import signal


def signal_name(number: int) -> str:
    """Such as SIGABRT."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
