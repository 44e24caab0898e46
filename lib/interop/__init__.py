"""Other packages: sentence-transformers, search engines, Ray Data."""
