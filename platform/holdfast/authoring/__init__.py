"""What `holdfast new` and `holdfast init` write: reports, models and tests, from tables and collections."""
