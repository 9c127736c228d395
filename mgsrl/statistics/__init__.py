"""The statistics of a comparison: pure functions of numbers, the seed being the unit."""
