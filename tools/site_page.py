"""Puts the page in which pretrained models run into the documentation site; a hook of MkDocs."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig

from nextpixel.web import models_for_pages, write_folder


def on_post_build(config: MkDocsConfig) -> None:
    """Writes the page into the folder `live` of the site."""
    write_folder(models_for_pages(), Path(config.site_dir) / "live")
