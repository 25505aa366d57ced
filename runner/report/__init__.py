"""What a person looks at: progress while a run goes, and a picture, a page and a table afterwards.

Everything here is derived from the journal and the store and can be deleted: `grid` draws the contact sheet,
`page` the self-contained report, `live` shows progress, `summary` prints tables and faults. It decides nothing
and records nothing.
"""
