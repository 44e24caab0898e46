"""A static page of a model and a collection, to click through: latents, documents, and queries with sliders."""
