"""Reports: text, tables, pictures and sounds in one self-contained HTML file."""

import base64
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from nextpixel.errors import UserError
from nextpixel.utils.files import atomic_write

__all__ = ["Section", "Sound", "write_report"]

_IMAGE_TYPES = {".png": "image/png", ".gif": "image/gif", ".svg": "image/svg+xml"}
_SOUND_TYPES = {".wav": "audio/wav", ".flac": "audio/flac"}

# Enlarged pictures are pixelated. On narrow screens of low resolution, which shrink pictures, they
# are not, because that would drop pixels.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #22262e; --paper: #fcfcfb; --soft: #5d6470;
  --line: #dcdfe4; --box: #f1f2f4; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #dfe2e7; --paper: #16181c; --soft: #9aa2ae;
  --line: #343942; --box: #20242a; }} }}
body {{ margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 60rem; box-sizing: border-box;
  color: var(--ink); background: var(--paper); font: 1rem/1.6 system-ui, sans-serif; }}
h1 {{ font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.5rem; }}
h2 {{ font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }}
p {{ max-width: 42rem; margin: .75rem 0; overflow-wrap: anywhere; }}
figure {{ margin: 1rem 0; }}
img {{ display: block; max-width: 100%; height: auto; border-radius: 4px; }}
@media (min-width: 60rem), (min-resolution: 2dppx) {{ img {{ image-rendering: pixelated; }} }}
figcaption {{ max-width: 42rem; margin-top: .5rem; color: var(--soft); font-size: .9rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem 1.5rem .35rem 0; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; }}
th {{ font-weight: normal; color: var(--soft); }}
td {{ overflow-wrap: anywhere; }}
.sounds {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr));
  gap: 1rem; }}
.sounds figure {{ margin: 0; }}
.sounds img {{ width: 100%; height: 10rem; image-rendering: pixelated; }}
audio {{ width: 100%; height: 2.25rem; margin-top: .5rem; }}
pre {{ padding: .75rem 1rem; overflow-x: auto; border-radius: 4px; background: var(--box);
  font: .875rem/1.5 ui-monospace, monospace; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{sections}
</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Sound:
    """Holds a sound, which gets a player below its picture.

    Attributes:
        label: The caption.
        file: A .wav or .flac file, which is embedded unchanged.
        image: The picture, a spectrogram.
    """

    label: str
    file: Path
    image: Image.Image


@dataclass(frozen=True)
class Section:
    """Holds a section of a report, shown as text, image, sounds, table, code.

    Attributes:
        heading: The title.
        text: Plain text; a blank line separates paragraphs.
        image: A picture, or the path of a .png, .gif or .svg file, which is embedded unchanged.
        caption: The text below the picture.
        table: Rows of (name, value).
        code: Preformatted lines, such as a command.
        sounds: Sounds, side by side.
    """

    heading: str
    text: str = ""
    image: Image.Image | Path | None = None
    caption: str = ""
    table: list[tuple[str, str]] | None = None
    code: str | None = None
    sounds: Sequence[Sound] = ()


def write_report(path: str | os.PathLike[str], title: str, sections: Iterable[Section]) -> None:
    """Writes a self-contained page atomically.

    Args:
        path: Where to write; missing folders are created.
        title: The title of the page.
        sections: The sections, from top to bottom.

    Raises:
        UserError: If a picture or a sound cannot be read, or has another format.
        OSError: If the page cannot be written.
    """
    page = _PAGE.format(title=escape(title), sections="\n".join(map(_section, sections)))
    with atomic_write(path) as file:
        file.write(page.encode(errors="replace"))  # a path that is not UTF-8


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.heading)}</h2>"]
    paragraphs = re.split(r"\n\s*\n", section.text.strip())
    parts += [f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs if paragraph]
    if section.image is not None:
        alt = escape(section.caption or section.heading)
        caption = f"<figcaption>{escape(section.caption)}</figcaption>" if section.caption else ""
        source = _data_uri(section.image)
        parts.append(f'<figure><img src="{source}" alt="{alt}">{caption}</figure>')
    if section.sounds:
        figures = "\n".join(map(_player, section.sounds))
        parts.append(f'<div class="sounds">\n{figures}\n</div>')
    if section.table:
        rows = [f'<th scope="row">{escape(k)}</th><td>{escape(v)}</td>' for k, v in section.table]
        parts.append("<table>\n<tr>{}</tr>\n</table>".format("</tr>\n<tr>".join(rows)))
    if section.code is not None:
        parts.append(f"<pre><code>{escape(section.code)}</code></pre>")
    return "<section>\n{}\n</section>".format("\n".join(parts))


def _player(sound: Sound) -> str:
    label = escape(sound.label)
    picture = f'<img src="{_data_uri(sound.image)}" alt="spectrogram of {label}">'
    audio = f'<audio controls preload="metadata" src="{_data_uri(sound.file)}"></audio>'
    return f"<figure>{picture}{audio}<figcaption>{label}</figcaption></figure>"


def _data_uri(content: Image.Image | Path) -> str:
    if isinstance(content, Path):
        data, type_ = _read(content)
    else:
        buffer = io.BytesIO()
        content.save(buffer, format="PNG", optimize=True)
        data, type_ = buffer.getvalue(), _IMAGE_TYPES[".png"]
    return f"data:{type_};base64,{base64.b64encode(data).decode()}"


def _read(path: Path) -> tuple[bytes, str]:
    types = _IMAGE_TYPES | _SOUND_TYPES
    type_ = types.get(path.suffix.lower())
    if type_ is None:
        raise UserError(f"Cannot embed {path}: a report takes {', '.join(types)} files.")
    try:
        return path.read_bytes(), type_
    except OSError as error:
        raise UserError(f"Cannot embed {path}: {error.strerror or error}.") from error
