"""Files that hold reconstructions, and databases of matches."""
