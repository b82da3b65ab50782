"""mPLUG-Owl3: Qwen2 with a few hyper-attention layers, and a SigLIP tower.

The sizes and names are those of the published checkpoints (mPLUG/mPLUG-Owl3-7B-240728,
-1B/-2B-241014, -7B-241101); Qwen2 and SigLIP are transformers' own pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM, Qwen2RotaryEmbedding

from rag_owl.errors import InvalidCheckpoint, InvalidInput
from rag_owl.loading import ONE_AT_A_TIME
from rag_owl.model import checkpoint, placement
from rag_owl.model.check import NAMES
from rag_owl.model.hyper_attention import HyperAttention
from rag_owl.model.owl3.config import Owl3Config
from rag_owl.model.owl3.memory import (
    MemoryIdentity,
    VisualMemory,
    check_identity,
    fingerprint,
    new_ids,
)
from rag_owl.model.owl3.pictures import PictureCache, look
from rag_owl.model.owl3.prompt import check_prompt
from rag_owl.model.owl3.state import DecodingState
from rag_owl.model.owl3.vision import VisionTower
from rag_owl.model.sight import HyperInputs, Observer, RowSpan, Sight, Trace
from rag_owl.model.thin_linear import thin

PICTURES_AT_ONCE = 16  # through the vision tower


class Owl3(nn.Module):
    """The model. `Owl3.from_pretrained` loads one; `Owl3(config)` has random weights."""

    def __init__(self, config: Owl3Config) -> None:
        super().__init__()
        self.config = config
        qwen2 = Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=config.tie_word_embeddings,
        )
        qwen2._attn_implementation = "sdpa"
        self.qwen2 = qwen2
        self.language_model = Qwen2ForCausalLM(qwen2)
        for index in config.hyper_indices:
            if not 0 <= index < config.num_hidden_layers:
                raise InvalidCheckpoint(
                    f"hyper layer {index + 1} of {config.num_hidden_layers} layers does not exist."
                )
            layer = self.language_model.model.layers[index]
            layer.self_attn = HyperAttention(qwen2, index, config.gate)
        self.vision_model = VisionTower(config.vision)
        Dv, D = config.vision.hidden_size, config.hidden_size
        self.vision2text_model: nn.Module = nn.Linear(Dv, D)
        if config.projector == "mlp":
            self.vision2text_model = nn.Sequential(nn.Linear(Dv, D), nn.GELU(), nn.Linear(D, D))
        # What hot pictures keep: on a GPU the memory is scarcer and the gain larger.
        self.picture_cache = PictureCache(max_bytes=512 * 1024 * 1024)
        self.pictures_seen = 0  # pictures that went through the vision tower
        self._identity: tuple[tuple[object, ...], MemoryIdentity] | None = None

    # --- loading ------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | dict[str, Any] | None = None,
        quantize: str | None = None,
    ) -> Owl3:
        """Load a published checkpoint: a folder, or a hub id such as mPLUG/mPLUG-Owl3-2B-241014.

        `dtype`: that of the config unless given. `device_map`: a device, `{"": device}` or
        "auto" (a GPU where there is one). `quantize`: "8bit" or "4bit" for the language model,
        with bitsandbytes. No code that comes with a model is ever run.

        Raises ModelNotFound; InvalidCheckpoint with the list of what does not fit;
        InvalidSettings for a device, dtype or quantisation that cannot be had here.
        """
        folder = checkpoint.find_folder(name)
        tensors = dict(checkpoint.read_tensors(checkpoint.weight_files(folder)))
        device = placement.device_of(device_map)
        with checkpoint.built_from(folder, NAMES["owl3"]):
            config = Owl3Config.read(folder, tensors)
            wanted = placement.dtype_of(dtype if dtype is not None else config.dtype)
            with ONE_AT_A_TIME, torch.device("meta"):
                model = cls(config)
            layers = config.vision.num_hidden_layers
            used = {k: v for k, v in tensors.items() if not _never_used(k, layers)}
            optional: frozenset[str] = frozenset()
            if config.tie_word_embeddings:
                optional = frozenset({"language_model.lm_head.weight"})
            checkpoint.assign(model, used, optional=optional)
            model._finish_loading()
        model.to(dtype=wanted)
        if quantize is not None:
            placement.quantize(model.language_model, quantize, device)
        return model.to(device).eval()

    def _finish_loading(self) -> None:
        """What no checkpoint holds: tied weights, and tables that were built without memory."""
        language = self.language_model
        if self.config.tie_word_embeddings:
            language.lm_head.weight = language.model.embed_tokens.weight
        language.model.rotary_emb = Qwen2RotaryEmbedding(self.qwen2)
        embeddings = self.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions).expand((1, -1))
        thin(self)

    def to(self, *args: Any, **kwargs: Any) -> Owl3:
        """As torch's, but the rotation's frequencies stay float32."""
        frequencies = self.language_model.model.rotary_emb.inv_freq
        super().to(*args, **kwargs)
        rotary = self.language_model.model.rotary_emb
        if rotary.inv_freq.dtype != torch.float32 and not frequencies.is_meta:
            rotary.inv_freq = frequencies.to(rotary.inv_freq.device)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, which `from_pretrained` reads.

        The vision tower's last layer and head, which influence nothing, are not written.
        """
        import json

        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        if self.config.tie_word_embeddings:
            del tensors["language_model.lm_head.weight"]
        config = self.config.to_json() | {"torch_dtype": str(self.dtype).removeprefix("torch.")}
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    @property
    def device(self) -> torch.device:
        weight: Tensor = self.language_model.model.norm.weight
        return weight.device

    @property
    def dtype(self) -> torch.dtype:
        weight: Tensor = self.language_model.model.norm.weight
        return weight.dtype

    @property
    def head_width(self) -> int:
        return self.config.hidden_size // self.config.num_attention_heads

    # --- visual memory ------------------------------------------------------------------------

    @property
    def preprocessing(self) -> str:
        """What the published processor does to a picture, by name."""
        return f"square-bicubic-{self.config.vision.image_size}"

    @property
    def memory_identity(self) -> MemoryIdentity:
        """What this model's features depend on: its vision tower, projector and preprocessing.

        Taken again after the weights changed.
        """
        weights = [
            *self.vision_model.named_parameters(),
            *self.vision2text_model.named_parameters(),
        ]
        state = tuple((weight.data_ptr(), weight._version) for _, weight in weights)
        if self._identity is None or self._identity[0] != state:
            name = f"owl3-{fingerprint(str(self.config.vision), weights)}"
            self._identity = (state, MemoryIdentity(name, self.preprocessing))
        return self._identity[1]

    def projection_state(self) -> tuple[object, ...]:
        """Changes when the weights that make keys and values of features change or move."""
        state: list[object] = []
        for index in self.config.hyper_indices:
            layer = self.language_model.model.layers[index]
            for weight in (layer.self_attn.v_kv_proj.weight, layer.input_layernorm.weight):
                state += [weight.data_ptr(), weight._version]
        return tuple(state)

    def remember(
        self, pixel_values: Tensor, ids: Sequence[str] | None = None, preprocessing: str = ""
    ) -> VisualMemory:
        """Run the vision tower and the projector once: (N, 3, S, S) -> a memory of N pictures.

        `ids` name the pictures (say, their sha256 and tile), so that a cache knows them again.
        Gradients flow as in any module; wrap in `torch.no_grad()` to store the result.

        Raises InvalidInput: not (N, 3, S, S) with this model's S, or as many ids.
        """
        S = self.config.vision.image_size
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (3, S, S):
            raise InvalidInput(
                f"pixel_values must be (N, 3, {S}, {S}), not {tuple(pixel_values.shape)}."
            )
        if pixel_values.shape[0] == 0:
            raise InvalidInput("pixel_values holds no picture; without pictures pass memory=None.")
        if ids is not None and len(ids) != pixel_values.shape[0]:
            raise InvalidInput(f"{pixel_values.shape[0]} pictures but {len(ids)} ids.")
        pieces = []
        with placement.memory_guard(f"{len(pixel_values)} pictures"):
            for i in range(0, len(pixel_values), PICTURES_AT_ONCE):
                pixels = pixel_values[i : i + PICTURES_AT_ONCE].to(self.device, self.dtype)
                pieces.append(self.vision2text_model(self.vision_model(pixels)))
            features = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        self.pictures_seen += len(pixel_values)
        identity = self.memory_identity
        if preprocessing:
            identity = MemoryIdentity(identity.model, preprocessing)
        return VisualMemory(features, identity, tuple(ids or new_ids(len(pixel_values))))

    # --- running ------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        memory: VisualMemory | None = None,
        image_starts: Sequence[Sequence[int]] | None = None,
        attention_mask: Tensor | None = None,
        *,
        state: DecodingState | None = None,
        last_only: bool = False,
        observer: Observer | None = None,
        trace: Trace | None = None,
    ) -> Tensor:
        """input_ids (B, T) -> logits (B, T, V) in float32, or (B, 1, V) with `last_only`.

        `memory` is flat over the rows' pictures, in order; `image_starts` has one list per row:
        each picture's first placeholder as an index into that row of `input_ids`, padding
        counted. `attention_mask` (B, T) is 0 at padding, which may stand before or behind a
        row's text. With `state` the call continues what the state holds, and adds to it.

        Logits at padding mean nothing. Raises InvalidInput: shapes that do not fit, pictures and
        starts that differ in number, two starts at one index, starts beyond the text, positions
        beyond the model's, features of another model. Raises OutOfMemory.
        """
        past = state.columns if state is not None else 0
        spans = check_prompt(self.config, input_ids, image_starts, attention_mask, state)
        starts = [list(row) for row in image_starts] if image_starts else [[]] * len(spans)
        count = sum(len(row) for row in starts)
        if count != (len(memory) if memory is not None else 0):
            raise InvalidInput(
                f"image_starts names {count} pictures, but the memory holds "
                f"{len(memory) if memory is not None else 0}."
            )
        if memory is not None:
            check_identity(memory.identity, self.memory_identity, "the visual memory")
            if memory.patches != self.config.vision.patches:
                raise InvalidInput(f"{memory.patches} patches, not {self.config.vision.patches}.")
        with placement.memory_guard(f"{tuple(input_ids.shape)} tokens and {count} pictures"):
            sights = self._look(memory, starts, spans, state)
            hidden = self._run(
                input_ids.to(self.device),
                HyperInputs(sights, spans, observer, trace),
                past,
                state,
            )
            if last_only:
                hidden = hidden[:, -1:]
            logits: Tensor = self.language_model.lm_head(hidden)
            return logits.float()

    def _look(
        self,
        memory: VisualMemory | None,
        starts: list[list[int]],
        spans: list[RowSpan],
        state: DecodingState | None,
    ) -> list[Sight | None]:
        """Each row's pictures: those of the state and the new ones."""
        before: list[Sight | None] = list(state.sights) if state is not None and len(state) else []
        sights: list[Sight | None] = before or [None] * len(spans)
        first = 0
        for row, (here, span) in enumerate(zip(starts, spans, strict=True)):
            if not here or memory is None:
                continue
            mine, ordered = memory[first : first + len(here)].by_place(here)
            new = look(self, mine, [start - span.column_shift for start in ordered])
            first += len(here)
            old = sights[row]
            sights[row] = new if old is None else old.followed_by(new)
        return sights

    def _run(
        self, input_ids: Tensor, hyper: HyperInputs, past: int, state: DecodingState | None
    ) -> Tensor:
        """-> normed hidden states (B, T, D)."""
        model = self.language_model.model
        T = input_ids.shape[1]
        padding = [span.first_key for span in hyper.spans]
        columns = torch.arange(past, past + T, device=self.device)
        position_ids = (columns - torch.tensor(padding, device=self.device)[:, None]).clamp(min=0)
        mask = self._mask(hyper.spans, past, T)
        hidden = model.embed_tokens(input_ids)
        if hyper.trace is not None:
            hyper.trace["layer_in.0"] = hidden
        position_embeddings = model.rotary_emb(hidden, position_ids)
        for index, layer in enumerate(model.layers):
            extra = {"hyper": hyper} if isinstance(layer.self_attn, HyperAttention) else {}
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=state,
                position_embeddings=position_embeddings,
                **extra,
            )
            if hyper.trace is not None:
                hyper.trace[f"layer_out.{index}"] = hidden
        if state is not None:
            state.padding, state.sights = padding, list(hyper.sights)
            state.advance(T)
        normed: Tensor = model.norm(hidden)
        if hyper.trace is not None:
            hyper.trace["final_norm"] = normed
        return normed

    def _mask(self, spans: Sequence[RowSpan], past: int, T: int) -> Tensor | None:
        """(B, 1, T, past + T), True where visible; None where plain causal attention will do."""
        padded = any(span.first_key or span.hi < T for span in spans)
        if not padded and (past == 0 or T == 1):
            return None
        columns = torch.arange(past + T, device=self.device)
        queries = columns[past:, None]
        first = torch.tensor([span.first_key for span in spans], device=self.device)
        until = torch.tensor([past + span.hi for span in spans], device=self.device)
        real = (columns >= first[:, None]) & (columns < until[:, None])  # (B, S)
        visible = (columns <= queries) & real[:, None, :]
        # Padding sees itself: a row of nothing would be a softmax over nothing.
        return (visible | (columns == queries))[:, None]

    def generate(
        self,
        input_ids: Tensor,
        memory: VisualMemory | None = None,
        image_starts: Sequence[Sequence[int]] | None = None,
        attention_mask: Tensor | None = None,
        max_new_tokens: int = 256,
        **sampling: Any,
    ) -> Tensor:
        """New ids (B, <= max_new_tokens), padded after the end token; see `generate.generate`."""
        from rag_owl.model.owl3.generate import generate

        return generate(
            self, input_ids, memory, image_starts, attention_mask, max_new_tokens, **sampling
        )


def _never_used(key: str, vision_layers: int) -> bool:
    """Published tensors that influence no output: the features are the last layer but one's."""
    return key.startswith(
        (
            f"vision_model.encoder.layers.{vision_layers - 1}.",
            "vision_model.post_layernorm.",
            "vision_model.head.",
            "vision_model.embeddings.position_ids",
        )
    ) or key.endswith("rotary_emb.inv_freq")
