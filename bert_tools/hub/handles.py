"""What a handle stands for: a short name, an address, or a folder.

Nothing is fetched before a handle is resolved, and then once.
"""

from bert_tools.errors import UserError
from bert_tools.hub import names
from bert_tools.hub.sources import huggingface, kaggle, storage, web

# Repositories by the names that they had before there were organisations, and by KerasHub's.
_GOOGLE_BERTS = (
    "bert-base-cased",
    "bert-base-chinese",
    "bert-base-german-cased",
    "bert-base-multilingual-cased",
    "bert-base-multilingual-uncased",
    "bert-base-uncased",
    "bert-large-cased",
    "bert-large-cased-whole-word-masking",
    "bert-large-cased-whole-word-masking-finetuned-squad",
    "bert-large-uncased",
    "bert-large-uncased-whole-word-masking",
    "bert-large-uncased-whole-word-masking-finetuned-squad",
)
SHORT_NAMES = {
    **{name: f"hf://google-bert/{name}" for name in _GOOGLE_BERTS},
    **{
        name: f"hf://FacebookAI/{name}"
        for name in ("roberta-base", "roberta-large", "xlm-roberta-base", "xlm-roberta-large")
    },
    **{
        name: f"hf://distilbert/{name}"
        for name in (
            "distilbert-base-cased",
            "distilbert-base-german-cased",
            "distilbert-base-multilingual-cased",
            "distilbert-base-uncased",
            "distilbert-base-uncased-finetuned-sst-2-english",
            "distilroberta-base",
        )
    },
    **{
        f"albert-{size}-v{version}": f"hf://albert/albert-{size}-v{version}"
        for size in ("base", "large", "xlarge", "xxlarge")
        for version in (1, 2)
    },
    "bert_base_en": "hf://google-bert/bert-base-cased",
    "bert_base_en_uncased": "hf://google-bert/bert-base-uncased",
    "bert_base_multi": "hf://google-bert/bert-base-multilingual-cased",
    "bert_base_zh": "hf://google-bert/bert-base-chinese",
    "bert_large_en": "hf://google-bert/bert-large-cased",
    "bert_large_en_uncased": "hf://google-bert/bert-large-uncased",
    "distil_bert_base_en": "hf://distilbert/distilbert-base-cased",
    "distil_bert_base_en_uncased": "hf://distilbert/distilbert-base-uncased",
    "distil_bert_base_multi": "hf://distilbert/distilbert-base-multilingual-cased",
    "roberta_base_en": "hf://FacebookAI/roberta-base",
    "roberta_large_en": "hf://FacebookAI/roberta-large",
    "xlm_roberta_base_multi": "hf://FacebookAI/xlm-roberta-base",
}
_SOURCES = {
    "hf://": huggingface,
    "kaggle://": kaggle,
    "gs://": storage,
    "https://": web,
    "http://": web,
}


def resolve(handle):
    """The folder of a handle on this machine; what is not there yet is fetched into the cache.

    Args:
      handle: str: a short name (names.MODELS, SHORT_NAMES); hf://org/name[@revision];
        kaggle://owner/model/framework/variation[/version]; https:// of a TF Hub module or of an
        archive; gs://bucket/path; or a folder ("./minilm" is the folder of that name), which is
        returned as it stands.

    Raises:
      UserError: no such kind of address, or what it names cannot be had.
    """
    if handle in names.MODELS:
        return names.resolve(handle)
    address = SHORT_NAMES.get(handle, handle)
    address = kaggle.address_of_page(address) or address
    scheme, found, _ = address.partition("://")
    if not found:
        return address
    if f"{scheme}://" not in _SOURCES:
        raise UserError(
            f"{handle}: no such kind of address; known: {', '.join(_SOURCES)}, folders and short "
            "names"
        )
    return _SOURCES[f"{scheme}://"].folder(address)
