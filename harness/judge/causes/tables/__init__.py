"""The causes, one module per kind of trouble."""
