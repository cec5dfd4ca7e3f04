"""What all targets' tests have in common. To be imported when hypothesis' own profile has been loaded."""

from hypothesis import HealthCheck, settings

PROFILE = settings(suppress_health_check=list(HealthCheck))
"""Decorates a target's tests: how many examples is the run's matter, and none is judged by its speed."""
