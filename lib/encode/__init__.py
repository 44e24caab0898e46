"""Text to token states: kinds of retrievers, the encoder, states on disk, the packaged retriever."""
