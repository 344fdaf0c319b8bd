"""The bundled example: the flights that left New York in 2013, and the weather they met.

`models` says what is kept, `load` fills the databases, `reports` holds the seven analytics.
"""
