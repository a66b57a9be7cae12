"""A lossless codec: exact likelihood put to work.

A program says how likely each level is, and a range coder in the engine makes bits of it. The bits
are the same on every machine, so a file decodes anywhere, without PyTorch.

- pictures.py, sources.py: the images, value by value as they are;
- coding.py: levels to bytes and back, in tiles where a picture has another size than the program;
- chunks.py: some images with all that is needed to decode them;
- container.py: the records of a file (docs/format.md);
- programs.py, models.py: the program that a file needs, and that of a model;
- compress.py, decompress.py: whole files.
"""
