"""Alembic's scripts: each makes the tables of one revision from those of the one before.

A script says what to do by itself, without the tables of the code, which go on changing.
"""
