"""The networks of DSR. This package imports torch and itself only."""
