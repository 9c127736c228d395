"""Stored responses, scored without training (`mgsrl score`)."""
