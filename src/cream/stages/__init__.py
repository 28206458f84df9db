"""Five stages, each a function from records to records: sample, score, pair, train, evaluate.

A stage knows no paths, no iteration number and no tracker; `cream.loop` orders them and the store
keeps what they return.
"""
