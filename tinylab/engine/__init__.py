"""The engine room: evaluate interventions on a model, exactly.

`interventions` says what an intervention is, `reference` is its plain definition in code, `forked` computes the
same numbers with each state computed once, `trie` lays prompts out by their shared prefixes, and `choose`
decides which engine a run may use.
"""
