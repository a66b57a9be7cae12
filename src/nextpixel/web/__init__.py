"""Web pages in which models run, in the visitor's browser."""

from nextpixel.web.export import models_for_pages, write_folder, write_page

__all__ = ["models_for_pages", "write_folder", "write_page"]
