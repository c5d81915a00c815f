"""The room of what ships with the package: five corpora of prompt pairs and a small language model.

Everything here is made by the code beside it, from tables that were written for it:

- ``tables``: facts, names and words;
- ``wordings``: the sentence frames of each corpus, and which split each belongs to;
- ``pairs``: one clean and corrupt prompt pair, filled in from a wording and the tables;
- ``corpora``: the shipped JSONL files (``python -m tinylab.embedded.corpora``);
- ``text``: the endless training text of the embedded model, from the wordings of the train split only;
- ``start``: the weights that its training starts from;
- ``train``: the tokenizer and the model (``python -m tinylab.embedded.train``).

Only ``start`` and ``train`` need torch. Nothing in this room is imported when an experiment runs: experiments read the
files in ``tinylab/assets``.
"""
