"""An exported folder against the model it was made from, in the real `transformers` library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scaling.errors import ScalingError
from trainer.model import apply
from trainer.weights import Model

TOLERANCE = 1e-4  # largest difference of a logit in float32
SEQUENCES = 4


def check_export(model: Model, folder: str | Path) -> dict[str, Any]:
    """Load `folder` in transformers and compare logits on random ids, and the ids of a text.

    Raises ScalingError when transformers is missing or disagrees.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the folder
    try:
        import torch
        import transformers
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise ScalingError(
            "--check needs transformers and torch; install them with `pip install 'scaling[export]'`."
        ) from None
    transformers.utils.logging.disable_progress_bar()
    ids = np.random.default_rng(0).integers(0, model.shape.vocab, (SEQUENCES, model.seq))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        found = theirs(torch.from_numpy(ids)).logits.numpy()
    ours = np.asarray(jax.jit(apply, static_argnums=0)(model.shape, model.params, ids.astype(np.int32)))
    difference = float(np.abs(found - ours).max())
    if not difference <= TOLERANCE:
        raise ScalingError(f"{folder}: transformers computes other logits, by up to {difference:.3g}.")
    text = spellable(model)
    if AutoTokenizer.from_pretrained(folder)(text)["input_ids"] != model.tokenizer.encode(text).tolist():
        raise ScalingError(f"{folder}: transformers gives a text other ids than the run's tokenizer.")
    return {
        "transformers": transformers.__version__,
        "max_logit_difference": difference,
        "max_logit": float(np.abs(ours).max()),
        "logits": found.size,
    }


def spellable(model: Model) -> str:
    """The printable ASCII characters that the tokenizer has ids for."""
    characters = []
    for code in range(33, 127):
        try:
            model.tokenizer.encode(chr(code))
        except ScalingError:
            continue
        characters.append(chr(code))
    return "".join(characters)
