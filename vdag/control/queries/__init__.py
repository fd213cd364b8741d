"""The query manager's endpoints, by what they are about; `vdag.control.query` makes an app of them.

`submitting` takes queries in, stops and deletes them. `reporting` is for what nodes post, `asking`
for what users ask, `stream` for results as they come, `nodes` for nodes that join and ask for work.
All of them have `parts`; bodies are read by `schemas`, replies are made by `documents`.
"""
