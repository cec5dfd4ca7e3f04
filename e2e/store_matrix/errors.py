"""The one exception that is no finding."""


class CannotError(Exception):
    """This place, or this fault in it, is not to be had on this machine: its text says why."""
