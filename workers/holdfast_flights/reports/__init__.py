"""The example's seven reports, one module for each: Holdfast loads every module of this package."""
