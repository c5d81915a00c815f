"""The room of the planted models: weights set by hand in stock classes, whose every intervention has a closed form.

No training, no random numbers: a causal claim about these models can be right or wrong to the last digit.

- ``closed_forms``: the gains of every model and what follows from them, worked by hand; the one place of these numbers;
- ``corpora``: their vocabularies and prompt pairs;
- ``identity_norm``: features that a LayerNorm leaves as they are, and heads that are lookup tables, in a `GPT2LMHeadModel`;
- ``ledger``: Model A, an induction circuit with a suppressor, a value-bias head and a loud no-op;
- ``gates``: Model B, an AND and an OR gate of two heads each;
- ``twins``: Model C, one circuit played by other heads in another condition, and conditions that share nothing;
- ``llama``: a `LlamaForCausalLM` with grouped queries, rotary positions, RMSNorm and SwiGLU; its numbers and their
  derivation are in ``llama_closed_forms``.

``python -m tinylab.planted`` writes `tinylab/assets/planted` and the `planted_*.jsonl` corpora. Nothing in this room is
imported when an experiment runs: experiments read the files, as they do for any model.
"""
