"""Results to figures, tables and sentences. These rooms read what the studies wrote and never import torch."""
