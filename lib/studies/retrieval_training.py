"""Study `51_retrieval_training`: the retriever beside models that were never trained to retrieve."""

from lib.studies.inputs import Setting, plain_language_model, untrained
from lib.studies.names import PLAIN, RETRIEVER, TOKEN_EMBEDDINGS, UNTRAINED
from lib.studies.sweeps import Swept, Variant, study_recipe, sweep
from lib.support.store import Store


def retrieval_training_study(setting: Setting, store: Store | None = None) -> tuple[Swept, str]:
    """Compare the retriever with itself untrained, with its token embeddings, and with the language model it was.

    The baseline is the retriever. Lexical BM25 is compared with it as well: it knows words by their identity only. The
    second value names the plain language model, or says why it is left out.
    """
    store, encoder = store or Store(), setting.encoder
    encoders = {RETRIEVER: encoder, TOKEN_EMBEDDINGS: encoder.at(0), UNTRAINED: untrained(encoder, store)}
    try:
        encoders[PLAIN] = plain_language_model(encoder)
        note = f"The plain language model is {encoders[PLAIN].name}."
    except (OSError, ValueError) as error:
        note = f"Left out is the plain language model: {error}"
    variants = {name: Variant(study_recipe(setting, model)) for name, model in encoders.items()}
    return sweep(variants, RETRIEVER, setting.collections, store, words=True), note
