"""The example's seven reports, one module each. Holdfast finds them here by walking the package."""
