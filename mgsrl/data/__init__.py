"""Data sources, their validation, mixture and packing."""
