"""A lossless codec: exact likelihood put to work.

A program says how likely each level is, and a range coder in the engine makes bits of it. The bits
are the same on every machine, so a file decodes anywhere, without PyTorch.

- pictures.py, names.py, sources.py: the images, value by value as they are, and their names;
- coding.py: levels to bytes and back, in tiles where a picture has another size than the program;
- chunks.py: some images with all that is needed to decode them; parallel.py: several at once;
- container.py, head.py: the records of a file (docs/format.md);
- models.py, skeletons.py: the program of a model; programs.py: the one that a file needs;
- compress.py, decompress.py: whole files; archive.py: with a model of the very images.
"""
