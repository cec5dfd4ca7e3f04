"""The exceptions that are no finding."""


class CannotError(Exception):
    """This place, or this fault in it, is not to be had on this machine: its text says why."""


class BusyError(CannotError):
    """Somebody has a file open there: at another moment it may work."""
