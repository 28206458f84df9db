"""Engines that run a model: sampling and scoring, ids in and ids or numbers out."""
