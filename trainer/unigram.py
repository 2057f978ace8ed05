"""Training a unigram tokenizer (Kudo 2018) by sentencepiece, as a file of the `tokenizers` library.

sentencepiece is asked and not `tokenizers`, whose trainer sums in the order of a hash table: its
vocabulary's scores differ from process to process, and so would the hash of a data set. Pieces are
made of bytes in GPT-2's spelling, each of the 256 a piece, so that every text has ids and none is lost.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from scaling.errors import ScalingError

MOST_WORDS = 1_000_000  # the commonest different words that a vocabulary is learned from
LONGEST_WORD = 1_000  # bytes; longer ones hold no piece worth having


def unigram_json(texts: Iterable[bytes], vocab_size: int, end_text: str) -> str:
    """Text of a tokenizer.json of at most `vocab_size` pieces whose id 0 is `end_text`.

    Raises ScalingError where sentencepiece is not installed or the texts are too few for a vocabulary.
    """
    try:
        import sentencepiece
    except ImportError:
        raise ScalingError(
            "a unigram tokenizer is trained by sentencepiece; install it with `pip install 'scaling[data]'`, "
            "or choose bpe:SIZE."
        ) from None
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = _count_words(texts)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    absent = sorted(set(alphabet) - {letter for word in words for letter in word})
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "words.tsv")
        with open(table, "w", encoding="utf-8") as stream:
            ordered = sorted(words.items(), key=lambda entry: (-entry[1], entry[0]))
            stream.writelines(f"{word}\t{count}\n" for word, count in ordered[:MOST_WORDS])
        try:
            sentencepiece.SentencePieceTrainer.train(
                input=str(table),
                input_format="tsv",
                model_writer=model,
                model_type="unigram",
                vocab_size=vocab_size - len(absent),
                hard_vocab_limit=False,
                character_coverage=1.0,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                split_by_whitespace=False,
                split_by_unicode_script=False,
                split_by_number=False,
                max_sentence_length=4 * LONGEST_WORD,
                unk_id=0,
                bos_id=-1,
                eos_id=-1,
                pad_id=-1,
                num_threads=1,  # sums in one order
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ScalingError(
                f"--tokenizer unigram:{vocab_size}: sentencepiece finds no vocabulary in this text "
                f"({str(error).splitlines()[0]}); give more text or another size."
            ) from None
    trained = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(trained.id_to_piece(i), trained.get_score(i)) for i in range(1, trained.vocab_size())]
    lowest = min(score for _, score in pieces)
    known = {piece for piece, _ in pieces}
    pieces += [(letter, lowest - 1) for letter in alphabet if letter not in known]
    whole = Tokenizer(models.Unigram([(end_text, 0.0), *pieces], 0, False))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    whole.add_special_tokens([end_text])
    return json.dumps(json.loads(whole.to_str()), ensure_ascii=False)


def _count_words(texts: Iterable[bytes]) -> Counter[str]:
    from tokenizers import pre_tokenizers

    divide = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in divide(text.decode()))
    for word in [word for word in words if len(word) > LONGEST_WORD]:
        del words[word]
    return words
