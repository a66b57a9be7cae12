"""The font of labels."""

from nextpixel.viz.fonts import label_font


def test_labels_have_letters_of_other_languages() -> None:
    """Letters that a font lacks are all drawn as the same box."""
    missing = bytes(label_font(20).getmask("\uffff"))
    for letter in "ÜïñçøßЖΩ":
        assert bytes(label_font(20).getmask(letter)) != missing
