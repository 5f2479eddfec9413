"""The catalog: published images. Readers never see half of one; ``current.sif`` is a link that is flipped."""
