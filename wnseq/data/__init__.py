"""Bytes to tensors. Nothing here knows a model."""
