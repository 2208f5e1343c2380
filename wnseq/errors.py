"""The exceptions that torch and Python lack."""

__all__ = ["ShapeError"]


class ShapeError(ValueError, RuntimeError):
    """A tensor of the wrong shape: a ValueError, and the RuntimeError that torch raises there."""
