"""Holdfast: analytics computed ahead of the question, and served while anything behind them is down."""

__version__ = "0.1.0"
