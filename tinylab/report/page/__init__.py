"""`report.html`: a run or a sweep as one page, without any network.

`cells`, `run_tables` and `sweep_tables` make plain tables of results, `run_charts` and `sweep_charts` say how they are drawn,
`run_page` and `sweep_page` put both into sections, `document` makes the file.
"""
