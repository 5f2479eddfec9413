"""Building a set of images as a graph: each stack once, then its tutorials, here or as batch jobs."""
