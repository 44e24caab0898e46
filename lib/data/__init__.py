"""Collections, their sources, and text to train on."""
