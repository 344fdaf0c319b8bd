"""Holdfast: analytics computed ahead of the question, and served while anything behind them is down."""
