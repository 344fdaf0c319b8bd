"""`holdfast up`: every process on one machine."""
