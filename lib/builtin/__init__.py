"""Collections that need no download; each `build` returns the fields of a `lib.collection.Collection` as a dict."""

BUILT_IN = ("pydoc", "pydoc/train", "pydoc/test", "limit", "limit/46 (or another number of documents)", "limit/train")
