"""A page per tutorial and language, from what its tutorial.toml says."""

from __future__ import annotations

from harness.page.render import LANGUAGES, Language, measured_time, page_file, render_page

__all__ = ["LANGUAGES", "Language", "measured_time", "page_file", "render_page"]
