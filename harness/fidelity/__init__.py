"""Does a definition build what its Dockerfile builds? Both are built for real and compared, file by file."""
