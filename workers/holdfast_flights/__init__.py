"""The bundled example: the flights that left New York in 2013, and the weather they met.

`models` declares the data, `load` fills the databases, and `reports` has the seven analytics.
"""
