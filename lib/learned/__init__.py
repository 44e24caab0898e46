"""Retrievers trained through latents on pairs of a query and a text that answers it, and their controls."""
