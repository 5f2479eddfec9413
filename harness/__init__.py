"""AI tutorials as tested Apptainer images, batch jobs and a pytest harness.

Kept free of imports: this file also travels into every image next to ``harness.runtime``.
"""

__version__ = "0.1.0"
