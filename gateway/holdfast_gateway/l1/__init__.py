"""The first tier: results in this process's memory."""
