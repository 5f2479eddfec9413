"""A run: one execution of a tutorial, kept in one folder that can be judged at any time by anyone."""
