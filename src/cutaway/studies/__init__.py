"""The studies: each is settings -> result -> findings, and ends as a `Study`.

A study is a package with `Settings`, `run(model, settings)` and `demo()`, the settings with which the demo runs it.
"""

STUDIES = {
    "attribution": "which parts of the model wrote the next-token prediction",
    "ioi": "who receives what one of two people gives, and which heads say so",
    "rotation": "how far each block turns a token's vector, against controls",
}
"""Study -> the question it answers, in the order in which the demo runs them."""
