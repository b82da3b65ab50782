"""The vision tower: SigLIP, as far as it is used."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder, SiglipVisionEmbeddings

from rag_owl.model.owl3.config import VisionConfig


class VisionTower(nn.Module):
    """SigLIP up to the last layer but one, which is where the features come from.

    The last layer, the final norm and the pooling head are in the checkpoints but influence
    nothing, so they are not built.
    """

    def __init__(self, vision: VisionConfig) -> None:
        super().__init__()
        siglip = SiglipVisionConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            num_hidden_layers=vision.num_hidden_layers - 1,
            num_attention_heads=vision.num_attention_heads,
            image_size=vision.image_size,
            patch_size=vision.patch_size,
        )
        siglip._attn_implementation = "sdpa"
        self.embeddings = SiglipVisionEmbeddings(siglip)
        self.encoder = SiglipEncoder(siglip)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, P, Dv)."""
        hidden: Tensor = self.embeddings(pixel_values)
        for layer in self.encoder.layers:
            hidden = layer(hidden, attention_mask=None)
        return hidden
