"""Results to figures, tables and sentences. They read what the studies wrote, compute nothing and never import torch."""
