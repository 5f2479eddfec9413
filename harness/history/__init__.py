"""What was measured before: the database of judged runs, references set on purpose, and comparisons between groups."""
