"""BertConfig: the shape and the arithmetic of an encoder, read from a Google or a Hugging Face
JSON.

The two kinds of JSON use the same keys with one trap: Google's "gelu" is the tanh approximation,
Hugging Face's "gelu" the exact erf form. Here `hidden_act` always says which ("gelu_tanh",
"gelu_erf").
"""

import dataclasses

from bert_tools.errors import UserError
from bert_tools.files import read_json

_GOOGLE_ACTIVATIONS = {
    "gelu": "gelu_tanh",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
    "": "linear",
}
_HUGGINGFACE_ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "relu2": "relu_squared",
    "relu6": "relu6",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "linear": "linear",
}
ACTIVATIONS = tuple(sorted({*_GOOGLE_ACTIVATIONS.values(), *_HUGGINGFACE_ACTIVATIONS.values()}))
_SHARED_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
)


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape and arithmetic of one encoder (Devlin et al. 2018,
    https://arxiv.org/abs/1810.04805).

    The names are the original `modeling.BertConfig`'s. `hidden_act` is one of ACTIVATIONS, never
    plain "gelu".

    Raises:
      UserError: a size is not a positive integer, a probability outside 0..1, heads do not divide
      the width.
    """

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_tanh"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 16
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, "int") and (
                not isinstance(value, int) or isinstance(value, bool) or value < 1
            ):
                raise UserError(
                    f"{field.name} is {value!r} in the model's config, expected a positive integer"
                )
            if field.type in (float, "float") and (
                not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1
            ):
                raise UserError(
                    f"{field.name} is {value!r} in the model's config, expected a number in [0, 1)"
                )
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(
                f"hidden_act is {self.hidden_act!r}, expected one of {', '.join(ACTIVATIONS)}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads} in the config; restore the file from its source"
            )

    @classmethod
    def from_dict(cls, values):
        """Reads either kind of JSON object; Hugging Face's is known by "model_type",
        "architectures" or "transformers_version"."""
        if {"model_type", "architectures", "transformers_version"} & values.keys():
            return cls.from_huggingface(values)
        return cls.from_google(values)

    @classmethod
    def from_json_file(cls, json_file):
        """Reads a bert_config.json or config.json.

        Raises:
          UserError: naming the file and the key.
        """
        values = read_json(json_file)
        try:
            return cls.from_dict(values)
        except UserError as error:
            raise UserError(f"{json_file}: {error}") from error

    @classmethod
    def from_google(cls, values):
        """Reads Google's keys; "gelu" is the tanh form unless `"gelu_form": "erf"` stands beside
        it.
        """
        activation = values.get("hidden_act", "gelu")
        activation = "" if activation is None else str(activation).lower()
        if activation == "gelu" and values.get("gelu_form") == "erf":
            canonical = "gelu_erf"
        else:
            # Other projects write Hugging Face's names of further activations into Google-style
            # files.
            canonical = _GOOGLE_ACTIVATIONS.get(activation) or _HUGGINGFACE_ACTIVATIONS.get(
                activation
            )
        return cls._build(values, canonical, activation)

    @classmethod
    def from_huggingface(cls, values):
        """Reads Hugging Face's keys; "gelu" is the erf form.

        Raises:
          UserError: the family or a feature of it is not supported (model_type,
          position_embedding_type).
        """
        family = values.get("model_type", "bert")
        if family != "bert":
            raise UserError(f"model_type is {family!r}; supported: bert")
        positions = values.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise UserError(f"position_embedding_type is {positions!r}; supported: absolute")
        if values.get("is_decoder"):
            raise UserError("is_decoder is true; decoders are not supported, only encoders")
        activation = values.get("hidden_act", "gelu")
        values = {"type_vocab_size": 2, "vocab_size": 30522, **values}
        return cls._build(values, _HUGGINGFACE_ACTIVATIONS.get(str(activation).lower()), activation)

    @classmethod
    def _build(cls, values, canonical_activation, written_activation):
        if "vocab_size" not in values:
            raise UserError("vocab_size is missing; is this the config of a BERT model?")
        if canonical_activation is None:
            supported = ", ".join(sorted(_HUGGINGFACE_ACTIVATIONS))
            raise UserError(f"hidden_act is {written_activation!r}; supported: {supported}")
        return cls(
            **{key: values[key] for key in _SHARED_KEYS if key in values},
            hidden_act=canonical_activation,
        )

    def to_google(self):
        """The JSON object of a bert_config.json. The erf form of GELU is written as the second key
        `gelu_form`, which this project honours and the original ignores."""
        values = {key: getattr(self, key) for key in _SHARED_KEYS}
        if self.hidden_act in ("gelu_tanh", "gelu_erf"):
            values["hidden_act"] = "gelu"
            if self.hidden_act == "gelu_erf":
                values["gelu_form"] = "erf"
        else:
            values["hidden_act"] = self._huggingface_activation()
        return values

    def to_huggingface(self):
        """The JSON object of a Hugging Face config.json for this encoder."""
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "hidden_act": self._huggingface_activation(),
            "pad_token_id": 0,
            "position_embedding_type": "absolute",
            **{key: getattr(self, key) for key in _SHARED_KEYS},
        }

    def _huggingface_activation(self):
        return next(
            name for name, ours in _HUGGINGFACE_ACTIVATIONS.items() if ours == self.hidden_act
        )
