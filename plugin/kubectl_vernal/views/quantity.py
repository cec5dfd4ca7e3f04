"""Kubernetes quantities as numbers."""

from decimal import Decimal

from kubernetes.utils.quantity import parse_quantity


def number(quantity: str | int) -> Decimal:
    """E.g. 8Gi, 500m, 2.

    Raises:
        ValueError: it is none.
    """
    found: Decimal = parse_quantity(quantity)
    return found
