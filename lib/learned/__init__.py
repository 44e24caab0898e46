"""Retrievers trained through latents on pairs of a query and a text that answers it, and their controls."""

RUN = "finetuned.json"  # what a finetuned retriever was made of, in its folder
