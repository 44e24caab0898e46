"""Sparse autoencoders: the inference object, activations, training, checkpoints, formats of other packages."""
