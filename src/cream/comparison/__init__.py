"""Several methods and seeds of one recipe as one resumable job.

`members` says who takes part, `running` runs them and has what is equal made once.
What came out of it is read by `cream.report.comparison`.
"""
