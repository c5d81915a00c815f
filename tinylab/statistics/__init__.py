"""Statistics of effects, as pure functions on arrays: usable without the rest.

| module | what it answers |
|---|---|
| `estimates` | how large is each effect, and how sure is that, for these templates and for new ones |
| `families` | which of many p-values count together: Holm, Benjamini–Hochberg, max-T |
| `labels` | does an effect matter, is it negligible, does it change its sign between templates |
| `ranking` | would another sample have the same strongest effects, and how much are those of the strongest exaggerated |
| `conjunction` | does a component matter in every condition, or in at least r of them |
| `overlap` | how many components do random lists share |
| `proportions` | intervals of shares |
| `power` | how many examples, or templates, it takes |
| `bootstrap` | percentile intervals of statistics that have no closed form |

Letters: V cells, B examples, G templates, m conditions. What is undefined is NaN.
"""
