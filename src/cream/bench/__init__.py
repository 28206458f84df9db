"""Timing Cream side by side with what one would otherwise run. Knows no run and no method."""
