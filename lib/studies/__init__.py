"""The studies behind the figures, each from collections and models to frames that `lib.report` draws."""
