"""The catalog: published images. Readers never see half of one; ``current`` is a link that is flipped."""
