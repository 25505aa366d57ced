"""`critic`: its profiles and their lock, its exam, what it would start, and what its verdicts are worth.

`commands` is the command line, `profiles` the lock, `runtime` what would answer, `examining` its exam, `reviews` what
verdicts say and `words` how a person reads it. All but `lock` only look. What it does not know: how a critic is loaded
or asked; that is `runner.critic`.
"""
