"""Rows: models that give vectors and scores instead of text."""

from engines.row import Question, Row

_TEXTS = ["A worker that has served before", "need not learn again", "how to serve"]


def _ask(name: str, path: str, **body: object) -> Question:
    return Question(name, path, {"model": "tiny", **body})


_EMBEDDINGS = (
    _ask("one text", "/v1/embeddings", input=_TEXTS[0]),
    _ask("three texts", "/v1/embeddings", input=_TEXTS),
    _ask("token ids", "/v1/embeddings", input=list(range(20, 60))),
)
_UNLIKE = (("one text", "token ids"),)

ROWS = (
    Row("embedding", "llama", _EMBEDDINGS, {"runner": "pooling", "convert": "embed"}, unlike=_UNLIKE),
    Row("embedding, encoder (BERT)", "bert", _EMBEDDINGS, {"runner": "pooling"}, unlike=_UNLIKE),
    Row(
        "classification",
        "llama, three classes",
        (
            _ask("one text", "/classify", input=_TEXTS[0]),
            _ask("another text", "/classify", input=_TEXTS[1]),
            _ask("three texts", "/classify", input=_TEXTS),
        ),
        arguments={"runner": "pooling"},
        unlike=(("one text", "another text"),),
    ),
    Row(
        "reranking and score",
        "llama, one score",
        (
            _ask("score", "/score", text_1=_TEXTS[0], text_2=_TEXTS[1:]),
            _ask("rerank", "/rerank", query=_TEXTS[0], documents=_TEXTS[1:]),
        ),
        arguments={"runner": "pooling"},
    ),
)
