"""The forked engine: each state is computed once.

In the order in which an evaluation comes to them:

- `trie`: prompts as a prefix tree, as arrays; which of its states an intervention can reach.
- `batches`: prompt pairs cut into groups whose trees one forward pass can hold, with their affected states.
- `budget`: how much a pass may hold, and what an evaluation will cost.
- `cache`: what the unmodified runs leave for variants, and how little of it is enough.
- `trunks`: variants that go on from another one, whose states they share.
- `attention`: attention over a prefix tree, in tiles.
- `hooks`: where a transformers model is touched, and how it is let go again.
- `layouts`: what the passes over the same states share.
- `passes`: one forward pass, row by row: variants fork, are changed, and leave.
- `engine`: all of it put together.
"""
