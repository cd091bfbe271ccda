"""Operators behind overlap, sums and Lovász losses: one file per kernel, each registered for its device."""
