"""`npsiglip serve`: embeddings, classification and search over HTTP, in the shapes that existing clients speak.

One process; an event loop reads and answers, a few threads decode pictures and cut texts into tokens, one thread owns
the kernels. A request has the same bits whatever travels beside it, because a row of a batch has.

Needs the extra `serve`; nothing below this room imports it.
"""
