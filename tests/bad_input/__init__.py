"""
What producers must never send, and what becomes of it.

Reading order: `json_suite` and `strings` (published lists), `case` (what a case is), the corpus by what is wrong (`json_cases`,
`value_cases`, `message_cases`, `header_cases`, `foreign_cases`; `corpus` lists them), `mutate` (seeded mutations of good
messages, as many as wanted).
"""
