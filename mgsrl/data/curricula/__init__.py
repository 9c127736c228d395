"""Curricula: how the shares of the domains follow what training showed, one file each."""
