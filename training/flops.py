"""Parameters and floating-point operations (FLOP) of a decoder, from its config alone.

FLOP are counted as for MFU everywhere (PaLM, appendix B): a matmul takes 2 per weight and token in
the forward pass and 4 in the backward pass; causal attention is half of the square. What activation
checkpointing recomputes is not counted, because MFU is about useful work. The embedding is a table
and costs nothing; the head counts. The cost of formulas: they hold for dense decoders only.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.rope import head_dim

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from training.config_json import Dimensions

# Dense bf16 FLOP/s by the makers' data sheets.
PEAK_BF16 = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "MI300X": 1307e12,
}
# Model types of transformers whose layers normalise queries and keys.
HEAD_NORMS = ("qwen3", "olmo2", "olmo3", "gemma3_text")
# About what a driver shows; the larger version where there are two.
MEMORY_GIB = {"A100": 79, "H100": 79, "H200": 139, "B200": 178, "L40S": 44, "MI300X": 191}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder's dimensions."""

    layers: int
    """Decoder layers."""
    width: int
    """Of the hidden states."""
    heads: int
    """Attention heads: of queries."""
    key_value_heads: int
    """Heads of keys and values; fewer than `heads` if they are shared."""
    head_dim: int
    """Dimensions of one head."""
    feed_forward: int
    """Width inside the feed-forward layer."""
    vocabulary: int
    """Rows of the embedding."""
    tied: bool
    """Whether the head shares its weights with the embedding."""
    head_norms: bool = False
    """Whether queries and keys are normalised in each head."""

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices: attention, and a gated feed-forward."""
        # Four matrices: queries and output have all heads, keys and values may share fewer.
        attention = self.width * self.head_dim * (2 * self.heads + 2 * self.key_value_heads)
        # Three matrices: gate, up and down.
        return attention + 3 * self.width * self.feed_forward

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """How many matrices there are, and the weights of each: of all layers, and both ends."""
        of_all_heads = self.width * self.head_dim * self.heads
        of_shared_heads = self.width * self.head_dim * self.key_value_heads
        return [
            (2 * self.layers, of_all_heads),
            (2 * self.layers, of_shared_heads),
            (3 * self.layers, self.width * self.feed_forward),
            (1 if self.tied else 2, self.vocabulary * self.width),
        ]

    @property
    def ends(self) -> int:
        """Weights of embedding and head, which may be one matrix."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def matrix_weights(self) -> int:
        """Weights that every token is multiplied with: all layers and the head."""
        return self.layers * self.layer_weights + self.vocabulary * self.width

    @property
    def parameters(self) -> int:
        """All weights, norms included; small biases and query-key norms are left out."""
        # Two norms in each layer, and one before the head.
        norms = self.width * (2 * self.layers + 1)
        embedding = 0 if self.tied else self.vocabulary * self.width
        return self.matrix_weights + norms + embedding

    def linear_flops(self) -> float:
        """FLOP per trained token in matmuls with weights."""
        return 6.0 * self.matrix_weights

    def attention_flops(self, length: int) -> float:
        """FLOP per trained token in attention, for causal rows of `length` tokens."""
        # Scores and weighted sum: 2 x 2 FLOP per pair forward, twice that backward; half the pairs.
        return 6.0 * self.layers * self.heads * self.head_dim * length

    def training_flops(self, length: int) -> float:
        """FLOP per trained token in total, for rows of `length` tokens."""
        return self.linear_flops() + self.attention_flops(length)


def shape_of(config: "PretrainedConfig | Dimensions") -> Shape:
    """The dimensions in the config of a dense decoder.

    config: of transformers, or as training/config_json.py reads it.
    """
    heads = int(config.num_attention_heads)
    return Shape(
        layers=int(config.num_hidden_layers),
        width=int(config.hidden_size),
        heads=heads,
        key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=head_dim(config),
        feed_forward=int(config.intermediate_size),
        vocabulary=int(config.vocab_size),
        tied=bool(config.tie_word_embeddings),
        head_norms=getattr(config, "model_type", None) in HEAD_NORMS,
    )


def named_gpu(name: str) -> str | None:
    """The key of PEAK_BF16 in a device's name, if any: "NVIDIA H200 NVL" is an H200."""
    return next((gpu for gpu in PEAK_BF16 if gpu in name), None)
