"""The local page: ask a model about a prompt, change one place, and see before | after with the control beside it.

A question comes in as JSON and is checked (`question`), waits for the one worker that has the model (`worker`), is
answered by a pure function of the library (`looking`, `changing`, `pairing`) and goes out as element trees (`answer`).
Saved results are answers too, and need no model (`shelf`). `guard` decides what is answered at all.
"""
