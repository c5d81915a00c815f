"""The engine room: evaluate interventions on a model, exactly.

- `base`: what every engine offers, what it returns, and how an evaluation is kept while it is in the making.
- `reference`: the plain way, one forward pass per intervention and prompt; it defines what each intervention means.
- `forked`: the same numbers with each state computed once.
- `choose`: the self-check before a run, which compares the two and decides.
- `verdicts`: the self-checks that passed, in the user's cache.
- `biases`: the value bias of every head, measured.
- `cost`: the sizes of a model that decide about memory, and what plain forward passes cost.
- `interface`: where queries, keys and values are reached.
- `calls`: calling a module of a network again on other hidden states.
"""
