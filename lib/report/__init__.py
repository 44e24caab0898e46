"""Results to figures, tables and sentences; these modules compute nothing and never import torch."""
