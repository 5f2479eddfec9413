"""Programs that measure a node, run by an image's Python or any other that has torch; they import the runtime alone."""
