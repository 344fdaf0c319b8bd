"""The slim gateway: it answers from memory, then from Redis, then by asking the supervisor.

Importing it loads neither SQLAlchemy, Beanie, PyMongo nor Celery.
"""
