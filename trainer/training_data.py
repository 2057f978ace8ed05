"""What a run reads: the batches it is trained on, and what it is validated on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from scaling.control import SYMBOLS, control_of
from scaling.errors import ScalingError
from scaling.mixture import mixture_of
from scaling.objective import CAUSAL, parse_objective
from trainer.batches import train_ids
from trainer.config import RunConfig
from trainer.control import TaggedStream, counted, tags_of
from trainer.evaluate import Evaluation, evaluate
from trainer.masks import Batch, filled
from trainer.mixing import MixedText, parts_of
from trainer.objectives.pairs import PairData
from trainer.objectives.rows import Rows
from trainer.objectives.text import StreamText
from trainer.objectives.validation import by_label, spoken, validate
from trainer.tokens import SPLITS, TokenFolder


class TrainingData:
    """Batches of `config` from `data`: ids alone where every token is learnt from those before it.

    Everything is a function of the config, the data and the step, so that a run goes on exactly.
    """

    def __init__(self, config: RunConfig, data: TokenFolder) -> None:
        self.config, self.data = config, data
        self.stream = data.tokens("train")
        self.plain = is_plain(config)

    @cached_property
    def rows(self) -> Rows:
        c = self.config
        tags = () if c.control is None else SYMBOLS
        return Rows(parse_objective(c.objective), c.seq, c.batch, self.data.vocab_size, c.seed, tags)

    @cached_property
    def tagged(self) -> TaggedStream | None:
        """The training text with control tokens; None in a run without."""
        control = control_of(self.config.control)
        if control is None:
            return None
        return TaggedStream.of(self.data, control, self.rows.first_tag, self.rows.dtype)

    @cached_property
    def text(self) -> StreamText | MixedText:
        mixture = mixture_of(self.config.mixture)
        if mixture is None:
            stream = self.stream if self.tagged is None else self.tagged
            return StreamText(stream, self.config.seed, self.rows.window)
        parts = parts_of(self.data, "train", mixture.by, self.tagged)
        return MixedText(parts, mixture, self.config.seed, self.rows.window)

    @property
    def dtype(self) -> str:
        return str(self.stream.dtype if self.plain else self.rows.dtype)

    def check(self, where: str) -> None:
        """Raise ScalingError unless the shape's vocabulary has a row for every symbol of the run, each split
        a sequence, and every source of its mixture text."""
        for split in SPLITS:
            if (tokens := len(self.data.tokens(split))) < self.config.seq + 1:
                raise ScalingError(
                    f"{where}: field 'seq' is {self.config.seq}, but the {split} text of {self.config.data} "
                    f"has {tokens} tokens, less than one sequence and its target."
                )
        needed = self.data.vocab_size + (0 if self.plain else len(self.rows.symbols))
        if needed > self.config.shape.vocab:
            more = "" if self.plain else f" and the recipe's {len(self.rows.symbols)}"
            raise ScalingError(
                f"{where}: field 'shape.vocab' is {self.config.shape.vocab}, but the tokenizer of "
                f"{self.config.data} has {self.data.vocab_size} symbols{more}."
            )
        if not self.plain and isinstance(self.text, MixedText):
            self.text.check(where)
        elif not self.plain and len(self.stream) <= self.rows.window:
            raise ScalingError(
                f"{where}: objective {self.config.objective!r} needs {self.rows.window} tokens per example; "
                f"the training text of {self.config.data} has {len(self.stream)}."
            )

    def chunk(self, step: int, count: int, rows: np.ndarray | None = None) -> Batch | np.ndarray:
        """The batches of `count` steps from `step` on, of some `rows` alone if given, and the first of them
        again up to the `chunk_steps` that a program takes."""
        c = self.config
        batch: Batch | np.ndarray
        if self.plain:
            batch = train_ids(self.stream, c.seed, step, count, c.batch, c.seq, rows)
        else:
            batch = self.rows.batches(self.text, step, count, rows)
        return filled(batch, c.chunk_steps - count)

    def evaluate(self, program: Any, params: Any) -> Evaluation:
        """The validation of `trainer.evaluate`; an objective's own loss and modes beside it."""
        c = self.config
        if self.plain:
            return evaluate(program, params, self.data, c.eval_tokens, c.seq)
        found = validate(program, params, self.data, c.eval_tokens, self.rows)
        if c.mixture is None:
            return found
        said = by_label(spoken(program, self.rows), params, self.data, c.eval_tokens, c.seq)
        return found._replace(further={**(found.further or {}), **said})

    def account(self, steps: int) -> Mapping[str, Any]:
        """For the run's record: what `steps` steps have read and learnt, where that is not every token."""
        if self.plain:
            return {}
        c, counts = self.config, self.rows.total(steps)
        found: dict[str, Any] = {
            "text_tokens": counts["text"],
            "unique_tokens": int(min(counts["text"], len(self.stream))),
            "epochs": counts["text"] / len(self.stream),
        }
        if isinstance(self.text, MixedText):
            windows = steps * c.batch * self.rows.objective.examples
            sources = self.text.account(windows, counts["text"])
            found |= {
                "unique_tokens": sum(int(source["unique_tokens"]) for source in sources.values()),
                "mixture": {"by": self.text.mixture.by, "sources": sources},
            }
        control = control_of(c.control)
        if control is not None:
            found["control"] = {**control.to_dict(), "documents": counted(tags_of(self.data, control))}
        if c.objective == CAUSAL:
            return found
        read = steps * c.batch * c.seq
        pairs = counts["pairs"] / read
        heads = c.shape.layers * c.shape.heads * c.shape.head_dim
        return found | {
            "objective": {
                "name": c.objective,
                "symbols": len(self.rows.symbols),
                "text_tokens": counts["text"],
                "target_tokens": counts["targets"],
                "seen_per_token": pairs,
                # As model_causal, with what the mask of this objective lets through.
                "flops_masked": (6.0 * c.shape.matmul_params + 12.0 * pairs * heads) * read,
            },
        }


def is_plain(config: RunConfig) -> bool:
    """Whether every token of the stream is learnt from those before it, as it always was."""
    causal = parse_objective(config.objective).is_causal
    return causal and config.mixture is None and config.control is None


def reading(config: RunConfig, data: TokenFolder) -> TrainingData | PairData:
    """What the run of `config` reads of `data`."""
    pairs = parse_objective(config.objective).is_pairs
    return PairData(config, data) if pairs else TrainingData(config, data)


def ids_dtype(config: RunConfig, data: TokenFolder) -> str:
    """The type in which ids reach the programs of a run."""
    return reading(config, data).dtype
