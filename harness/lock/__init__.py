"""Resolving what a stack is made of, and holding images against it. The lock file itself is `harness.stack_lock`."""
