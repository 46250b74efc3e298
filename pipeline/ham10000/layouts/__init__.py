"""The layouts that people have their images in, each read into one common table."""
