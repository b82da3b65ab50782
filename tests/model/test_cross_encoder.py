"""Any cross-encoder for inference as judge: a tiny one with random weights, made on the fly."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_owl.errors import InvalidCheckpoint, ModelNotFound
from rag_owl.model import registry
from rag_owl.types import Claim, Item, TextLocation


def save(folder: Path, labels: list[str]) -> Path:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz."]
    (folder / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, num_labels=len(labels),
        id2label=dict(enumerate(labels)), label2id={v: i for i, v in enumerate(labels)},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return folder


def item(text: str | None) -> Item:
    return Item("i", "d", "d", 1, 0, "passage", "T", TextLocation(0, 1), text)


def test_it_reads_labels_by_their_names(tmp_path: Path) -> None:
    judge = registry.load_judge(str(save(tmp_path, ["contradiction", "entailment", "neutral"])))
    assert judge is not None
    claims = [Claim("a b", item("a b c.")), Claim("a", item(None)), Claim("b", item("x. " * 900))]
    found = judge.judge_all(claims)
    assert found[1] is None
    for bearing in (found[0], found[2]):
        assert bearing is not None
        assert 0 < bearing.supported < 1
        assert bearing.supported + bearing.contradicted < 1
    assert judge.name == tmp_path.name
    assert judge.judge_all([]) == []


def test_another_kind_of_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="entailment"):
        registry.load_judge(str(save(tmp_path, ["good", "bad"])))
    (tmp_path / "empty").mkdir()
    with pytest.raises((InvalidCheckpoint, ModelNotFound)) as caught:
        registry.load_judge(str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelNotFound, match="no judge 'owlnano'"):
        registry.load_judge("owlnano")
    assert registry.load_judge("none") is None
