"""An examiner from outside: files of real models' names and shapes, and what a careful person would say of each.

Nothing in it reads `runner.contract`; the inspector is asked through its verb. `python -m tests.examiner` runs it all.
"""
