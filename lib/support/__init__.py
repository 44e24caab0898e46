"""Errors that name the remedy, folders written whole or not at all, the store of what was computed, the hub."""
