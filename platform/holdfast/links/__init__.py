"""Links: supervised connections to Postgres, MongoDB and Redis."""
