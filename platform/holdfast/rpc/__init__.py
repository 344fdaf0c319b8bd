"""The supervisor's socket: its frames, its client and its server."""
