"""The studies: each is settings -> result -> findings, and ends as a `Study`.

A study is a package with `Settings`, `run(model, settings)` and `demo()`, the settings with which the demo runs it.
"""

STUDIES = {
    "attribution": "which parts of the model wrote the next-token prediction",
    "ioi": "who receives what one of two people gives, and which heads say so",
    "vector-arithmetic": "whether a relation, such as capital of, is a vector that can be added",
    "rotation": "how far each block turns a token's vector, against controls",
    "subspace": "what is lost when the leading directions of an MLP are removed",
}
"""Study -> the question it answers, in the order in which the demo runs them."""
