"""The one error that users see."""

from common.tools import ToolError


class ClusterError(ToolError):
    """Something about the cluster that the user can act on; its text says what failed and what to do next."""
