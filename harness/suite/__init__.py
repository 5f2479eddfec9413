"""The qualification suite: one test per run, image, output and throughput check of a tutorial.

    pytest --pyargs harness.suite --tutorial 2 --variant cpu --preset smoke

Every run is submitted before the first test; each test then waits for its own run. The tests are known from
tutorial.toml alone, so ``--collect-only``, ``-k`` and ``-m`` (run, image, output, throughput) work before anything ran.
"""
