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
# What a Hugging Face config.json leaves out has the default of its model type's class there.
_HUGGINGFACE_DEFAULTS = {
    "bert": {"vocab_size": 30522, "type_vocab_size": 2},
    "roberta": {"vocab_size": 50265, "type_vocab_size": 2, "pad_token_id": 1},
    "xlm-roberta": {"vocab_size": 30522, "type_vocab_size": 2, "pad_token_id": 1},
    "distilbert": {"vocab_size": 30522, "num_hidden_layers": 6},
    "albert": {
        "vocab_size": 30000,
        "type_vocab_size": 2,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "num_hidden_groups": 1,
    },
    "electra": {
        "vocab_size": 30522,
        "type_vocab_size": 2,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
}
FAMILIES = tuple(_HUGGINGFACE_DEFAULTS)
SAVED_MODEL = "saved_model"  # In place of a family: whatever a SavedModel's graph computes.
HUGGINGFACE_CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "distilbert": "DistilBert",
    "albert": "Albert",
    "electra": "Electra",
}
_DISTILBERT_KEYS = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "hidden_act": "activation",
}
# What stands between the first token's vector and a classifier in these families' own heads.
_POOLER_ACTIVATIONS = {"distilbert": "relu", "electra": "gelu_erf"}
_MAY_BE_NONE = ("embedding_size", "num_hidden_groups")
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
    plain "gelu". Other families (FAMILIES) differ from BERT in these fields:

    family: str, the name that Hugging Face's model_type gives it; no arithmetic depends on it.
    type_vocab_size: 0 where there are no token types (DistilBERT).
    position_offset: int, rows of the position table before the first token's (RoBERTa: one more
      than the id of padding). max_position_embeddings counts the rows that tokens can have.
    embedding_size: int, the width of the embeddings where a dense layer brings them to hidden_size
      (ALBERT, ELECTRA); None: they have that width, and there is no such layer.
    num_hidden_groups: int, the layers share the weights of so many groups (ALBERT); None: each has
      its own.
    inner_group_num: int, layers in a group; each of num_hidden_layers runs through all of them.
    pooler_act: one of ACTIVATIONS, behind the pooler's dense layer.
    graph: hub.saved_graph.SavedGraph or None; an encoder that is a SavedModel's own graph. Then
      family is SAVED_MODEL, num_hidden_layers counts the layers that it gives, and what it does
      not say (heads, activation, dropout) has no meaning.

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
    family: str = "bert"
    position_offset: int = 0
    embedding_size: int = None
    num_hidden_groups: int = None
    inner_group_num: int = 1
    pooler_act: str = "tanh"
    graph: object = None

    def __post_init__(self):
        may_be_zero = {"position_offset"}
        if self.family == "distilbert":
            may_be_zero.add("type_vocab_size")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in _MAY_BE_NONE:
                continue
            if field.type in (int, "int") and (
                not isinstance(value, int)
                or isinstance(value, bool)
                or value < (field.name not in may_be_zero)
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
        if (self.num_hidden_groups or 1) > self.num_hidden_layers:
            raise UserError(
                f"num_hidden_groups {self.num_hidden_groups} is more than num_hidden_layers "
                f"{self.num_hidden_layers} in the config; restore the file from its source"
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
        if family not in FAMILIES:
            raise UserError(f"model_type is {family!r}; supported: {', '.join(FAMILIES)}")
        positions = values.get("position_embedding_type", "absolute")
        if positions != "absolute":
            raise UserError(f"position_embedding_type is {positions!r}; supported: absolute")
        if values.get("is_decoder"):
            raise UserError("is_decoder is true; decoders are not supported, only encoders")
        if family == "distilbert":
            # Its layers have an epsilon of their own whatever the file says, and no token types.
            renamed = {o: values[t] for o, t in _DISTILBERT_KEYS.items() if t in values}
            values = {**values, **renamed, "type_vocab_size": 0, "layer_norm_eps": 1e-12}
        values = {"hidden_act": "gelu", **_HUGGINGFACE_DEFAULTS[family], **values}
        activation = values["hidden_act"]
        return cls._build(
            values,
            _HUGGINGFACE_ACTIVATIONS.get(str(activation).lower()),
            activation,
            family=family,
            pooler_act=_POOLER_ACTIVATIONS.get(family, "tanh"),
            **cls._family_sizes(family, values),
        )

    @staticmethod
    def _family_sizes(family, values):
        if family in ("roberta", "xlm-roberta"):
            offset, rows = values["pad_token_id"], values.get("max_position_embeddings", 512)
            if type(offset) is not int or type(rows) is not int or not 0 <= offset < rows - 1:
                raise UserError(
                    f"pad_token_id is {offset!r} and max_position_embeddings {rows!r}, expected "
                    "integers of which the first is smaller by 2 or more"
                )
            return {"position_offset": offset + 1, "max_position_embeddings": rows - offset - 1}
        if family == "albert":
            return {
                "embedding_size": values["embedding_size"],
                "num_hidden_groups": values["num_hidden_groups"],
                "inner_group_num": values.get("inner_group_num", 1),
            }
        if family == "electra" and values["embedding_size"] != values["hidden_size"]:
            return {"embedding_size": values["embedding_size"]}
        return {}

    @classmethod
    def _build(cls, values, canonical_activation, written_activation, **others):
        if "vocab_size" not in values:
            raise UserError("vocab_size is missing; is this the config of a BERT model?")
        if canonical_activation is None:
            supported = ", ".join(sorted(_HUGGINGFACE_ACTIVATIONS))
            raise UserError(f"hidden_act is {written_activation!r}; supported: {supported}")
        return cls(
            **{
                **{key: values[key] for key in _SHARED_KEYS if key in values},
                "hidden_act": canonical_activation,
                **others,
            }
        )

    def to_google(self):
        """The JSON object of a bert_config.json. The erf form of GELU is written as the second key
        `gelu_form`, which this project honours and the original ignores.

        Raises:
          UserError: the family is not BERT, which this JSON cannot say.
        """
        if self.family != "bert":
            raise UserError(
                f"Google's layout cannot hold a model of the type {self.family}; write it in "
                "Hugging Face's"
            )
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
        values = {key: getattr(self, key) for key in _SHARED_KEYS}
        values["hidden_act"] = self._huggingface_activation()
        values["max_position_embeddings"] += self.position_offset
        if self.family == "albert":
            values["num_hidden_groups"] = self.num_hidden_groups
            values["inner_group_num"] = self.inner_group_num
        if self.family in ("albert", "electra"):
            values["embedding_size"] = self.embedding_size or self.hidden_size
        if self.family == "distilbert":
            values = {_DISTILBERT_KEYS.get(key, key): value for key, value in values.items()}
            del values["type_vocab_size"], values["layer_norm_eps"]
        return {
            "architectures": [f"{HUGGINGFACE_CLASSES[self.family]}Model"],
            "model_type": self.family,
            "pad_token_id": max(0, self.position_offset - 1),
            "position_embedding_type": "absolute",
            **values,
        }

    def _huggingface_activation(self):
        return next(
            name for name, ours in _HUGGINGFACE_ACTIVATIONS.items() if ours == self.hidden_act
        )
