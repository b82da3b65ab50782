"""Small models of the other families with tokenizers, as folders like the published ones."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

GOLDEN = Path(__file__).parents[1] / "golden"
WORDS = (
    "the owl eats a mouse at night and sleeps by day Human AI answer evidence number [1] . , : ?"
)
GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
QWEN = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def byte_tokenizer(controls: tuple[str, ...]) -> Tokenizer:
    """One token per byte, and control tokens behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(c, special=True) for c in controls])
    return tokenizer


def sentencepiece_model() -> bytes:
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 50),
        model_writer=written,
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",  # as LLaMA's
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return written.getvalue()


def write_model(folder: Path, kind: str) -> Path:
    """kind: owl1, gemma, llama or qwen. The first three have the weights of a golden case, with a
    larger vocabulary; the last is drawn at random and saved by transformers itself.
    """
    if kind == "qwen":
        return write_qwen2_vl(folder)
    case = {
        "owl1": GOLDEN / "owl1" / "c1_one_image",
        "gemma": GOLDEN / "ovis16" / "c4_gemma2_batch_right_padded",
        "llama": GOLDEN / "ovis16" / "c3_llama_two_images",
    }[kind]
    folder.mkdir(parents=True)
    config: dict[str, Any] = json.loads((case / "config.json").read_text())
    text = config["text_config" if kind == "owl1" else "llm_config"]
    weights = load_file(case / "weights.safetensors")
    random = torch.Generator().manual_seed(3)
    vocabulary = 320
    for name, tensor in weights.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            more = torch.randn(vocabulary, tensor.shape[1], generator=random)
            weights[name] = more * tensor.std()
    if kind == "owl1":
        (folder / "tokenizer.model").write_bytes(sentencepiece_model())
        ends = 2
    else:
        controls = GEMMA if kind == "gemma" else LLAMA
        tokenizer = byte_tokenizer(controls)
        tokenizer.save(str(folder / "tokenizer.json"))
        ends = tokenizer.token_to_id("<eos>" if kind == "gemma" else "<|eot_id|>")
    text |= {"vocab_size": vocabulary, "max_position_embeddings": 4096, "eos_token_id": ends}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder


def write_qwen2_vl(folder: Path, *, tied: bool = False, positions: int = 4096) -> Path:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer(QWEN)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {name: tokenizer.token_to_id(name) for name in QWEN}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 320,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": positions,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [2, 3, 3],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "hidden_size": 64,
            "patch_size": 14,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tied,
    )
    torch.manual_seed(5)
    model = Qwen2VLForConditionalGeneration(config)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.15, generator=random)
            elif name.endswith(".bias"):
                weight.normal_(0, 0.05, generator=random)
        if not tied:  # it says letters rather than halves of characters
            letters = [tokenizer.token_to_id(c) for c in "abcdefghijklmnopqrstuvwxyz"]
            model.lm_head.weight[letters] *= 3
    model.save_pretrained(folder)
    numbers = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(numbers))
    return folder
