"""Holdfast's processes: their programs, ports, locks and files, and how one is started and ends."""
