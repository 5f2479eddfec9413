"""Batch scripts from tutorials and sites: plain, short, committed; a person can read and edit them."""
