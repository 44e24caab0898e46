"""What a run of `lib.learned.train.finetune` logs, while it runs and afterwards."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from transformers import TrainerCallback

from lib.support.files import replacing, user_path
from lib.support.progress import progress

LOG = "training_log.jsonl"
_PARTS = {
    "loss": "all",
    "base_loss": "ranking",
    "fvu": "L(k)",
    "fvu_4k": "L(4k)",
    "auxk": "AuxK",
    "query_regularizer_loss": "FLOPS of queries",
    "document_regularizer_loss": "FLOPS of documents",
    **{f"reconstruction_loss_{end}": part for end, part in (("k", "L(k)"), ("4k", "L(4k)"), ("aux", "AuxK"))},
}


def losses(folder: str | Path) -> pd.DataFrame:
    """Return the losses that `finetune` has logged in a folder: step, part ("all", "ranking", "AuxK" ...), value.

    A value is a mean over the steps since the row before. The parts that are logged differ by kind; each is as it is
    added up to "all". FileNotFoundError for a folder without a log.
    """
    lines = (user_path(folder) / LOG).read_text("utf-8").splitlines()
    rows = [
        {"step": row["step"], "part": part, "value": row[name]}
        for row in map(json.loads, lines)
        for name, part in _PARTS.items()
        if name in row
    ]
    return pd.DataFrame(rows, columns=["step", "part", "value"])


class Progress(TrainerCallback):
    """Shows progress, writes the log, and has the last step evaluated, or not saved twice."""

    def __init__(self, log: Path):
        self._log, self._status = log, ""
        self._steps: Iterator[int] = iter(())

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Begin to show."""
        shape = {"total": state.max_steps, "initial": state.global_step, "status": lambda: self._status}
        self._steps = progress(range(state.global_step, state.max_steps), what="finetune", unit="steps", **shape)
        next(self._steps, None)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Show a step, and say what the last one is followed by."""
        next(self._steps, None)
        if state.global_step == state.max_steps:
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = control.should_evaluate  # else `finetune` saves this state itself

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Write the whole log anew."""
        if "loss" in (logs or {}):
            self._status = f"loss {logs['loss']:.4g}"
        state.log_history[-1] |= logs or {}  # other callbacks may have added something
        with replacing(self._log) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in state.log_history), "utf-8")
