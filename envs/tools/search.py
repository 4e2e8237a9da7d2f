"""`SearchTool`: search in a corpus, by BM25."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from .base import Tool, ToolError


class SearchTool(Tool):
    """Finds the documents of a corpus that fit a query best, by BM25 (Robertson and Zaragoza 2009; the library bm25s,
    arXiv 2407.03618).

    Case, English stop words and words of one letter do not count. Documents that share no word with the query are not
    found. Of equal scores the first in the corpus goes first, so that a query always gives the same.

    Args:
        texts: the documents. They and their index are held in memory, and shared by all episodes.
        titles: of the documents, if they have any; what is found is shown as "title: text".
        results: how many documents a search shows at most.
        name: what the policy calls it.

    Raises:
        ValueError: there are no documents, not as many titles, or less than one result.
    """

    def __init__(
        self, texts: Sequence[str], titles: Sequence[str] | None = None, *, results: int = 3, name: str = "search"
    ) -> None:
        # Here, as it takes a while to import.
        import bm25s

        if not texts or (titles is not None and len(titles) != len(texts)):
            count = "" if titles is None else f" with {len(titles)} titles"
            raise ValueError(f"a corpus has documents, and a title for each or none: not {len(texts)}{count}")
        if results < 1:
            raise ValueError(f"results is how many documents a search shows, at least 1, not {results}")
        self._texts, self._titles, self._results = texts, titles, results
        self._index = bm25s.BM25()
        shown = [self._shown(i) for i in range(len(texts))]
        self._index.index(bm25s.tokenize(shown, show_progress=False), show_progress=False)
        self.schema = {
            "type": "function",
            "function": {
                "name": name,
                "description": "Search for documents by keywords.",
                "parameters": {
                    "type": "object",
                    "properties": {"query": {"type": "string", "description": "keywords or a question"}},
                    "required": ["query"],
                },
            },
        }

    def __repr__(self) -> str:
        return f"SearchTool({len(self._texts)} documents)"

    def find(self, query: str) -> list[int]:
        """The numbers of the documents that fit `query` best, the best first."""
        import bm25s

        [words] = cast(list[list[str]], bm25s.tokenize([query], return_ids=False, show_progress=False))
        known = self._index.get_tokens_ids(words)
        if not known:
            return []
        scores = self._index.get_scores_from_ids(known)
        count = min(self._results, len(scores))
        # All that score as the last of the best ones, of which the first are taken.
        least = np.partition(scores, -count)[-count]
        candidates = np.flatnonzero((scores >= least) & (scores > 0))
        best = candidates[np.argsort(-scores[candidates], kind="stable")]
        return best[:count].tolist()

    def call(self, arguments: Mapping[str, Any], timeout: float) -> str:
        """The documents for `arguments["query"]`, one below the other.

        Raises:
            ToolError: nothing was found; what is said is for the policy.
        """
        found = self.find(arguments["query"])
        if not found:
            raise ToolError("no document has any of these words")
        return "\n".join(self._shown(i) for i in found)

    def _shown(self, i: int) -> str:
        return self._texts[i] if self._titles is None else f"{self._titles[i]}: {self._texts[i]}"
