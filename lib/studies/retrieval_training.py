"""Study `51_retrieval_training`: the retriever beside models that were never trained to retrieve."""

from lib.studies.inputs import Setting, plain_language_model, untrained
from lib.studies.sweeps import Swept, Variant, lexical, study_recipe, sweep
from lib.support.store import Store


def retrieval_training_study(setting: Setting, store: Store | None = None) -> tuple[Swept, str]:
    """Compare the retriever with itself untrained, with its token embeddings, and with the language model it was.

    The baseline is the retriever. Lexical BM25 is compared with it, too: it knows words by their identity only.

    Returns
    -------
    Swept
    str
        What the plain language model is, or why it is left out.
    """
    store, encoder = store or Store(), setting.encoder
    encoders = {
        "retriever": encoder,
        "its token embeddings": encoder.at(0),
        "the same, untrained": untrained(encoder, store),
    }
    try:
        encoders["plain language model"] = plain_language_model(encoder)
        note = f"The plain language model is {encoders['plain language model'].name}."
    except (OSError, ValueError) as error:
        note = f"Left out is the plain language model: {error}"
    variants = {name: Variant(study_recipe(setting, other)) for name, other in encoders.items()}
    return sweep(variants, "retriever", setting.collections, store, lexical), note
