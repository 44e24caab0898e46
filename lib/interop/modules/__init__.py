"""Latent Terms as modules of a sentence-transformers `SparseEncoder`: token states to codes, codes to a text's terms.

    SparseEncoder(modules=[Transformer(...), SparseAutoEncoderTokenEncoder(...), SparseTokenPooling(...)])

Names, parameters and feature keys are those of sentence-transformers' pull request 3796, so that what is written for
one runs with the other. Weights are read from and written to safetensors only.
"""

from lib.interop.modules.features import MissingFeatureError
from lib.interop.modules.token_encoder import SparseAutoEncoderTokenEncoder
from lib.interop.modules.token_pooling import SparseTokenPooling

__all__ = ["MissingFeatureError", "SparseAutoEncoderTokenEncoder", "SparseTokenPooling"]
