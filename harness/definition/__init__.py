"""Dockerfile -> instructions -> :class:`Definition` -> definition file text. Nothing is lost silently."""
