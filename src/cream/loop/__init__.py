"""From a recipe to a finished run: opening it, its stages, and the order they come in.

Start reading at `cream.loop.iterations`.
"""
